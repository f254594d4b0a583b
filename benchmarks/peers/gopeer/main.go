// gopeer: the Go program to compare with. So many goroutines, each GETs a file with the client certificate, follows
// redirects as net/http does, writes beside, sums Adler32, renames. No Kafka, no policy, no retries.
//
// Plain is net/http and io.Copy as they come; -tuned keeps one idle connection per goroutine and reads 1 MiB at a time.
// -resume resumes TLS sessions, -fresh makes a connection per file, -fsync syncs file and directory as dcalqr does.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"hash"
	"hash/adler32"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

type file struct {
	path  string
	size  int64
	adler uint32
}

type options struct {
	url, dest    string
	tuned, fsync bool
	client       *http.Client
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func manifest(path string) (files []file) {
	in, err := os.Open(path)
	must(err)
	defer in.Close()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var f file
		_, err := fmt.Sscanf(lines.Text(), "%s %d %x", &f.path, &f.size, &f.adler)
		must(err)
		files = append(files, f)
	}
	return files
}

func newClient(client, ca string, slots int, tuned, fresh, resume bool) *http.Client {
	pair, err := tls.LoadX509KeyPair(client, client)
	must(err)
	authorities, err := os.ReadFile(ca)
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authorities)
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	if resume {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: fresh}
	if tuned {
		transport.MaxIdleConnsPerHost = slots
		transport.ReadBufferSize = 256 << 10
		transport.DisableCompression = true
	}
	return &http.Client{Transport: transport}
}

// copyBody writes the body to the part and sums it; a block of 1 MiB when tuned, else io.Copy's own 32 KiB.
func copyBody(part *os.File, sum hash.Hash32, body io.Reader, block []byte) (int64, error) {
	if block == nil {
		return io.Copy(io.MultiWriter(part, sum), body)
	}
	var total int64
	for {
		n, err := io.ReadFull(body, block)
		sum.Write(block[:n])
		if _, failed := part.Write(block[:n]); failed != nil {
			return total, failed
		}
		total += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
	}
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}

func (o *options) fetch(f file, block []byte) error {
	answer, err := o.client.Get(o.url + "/" + f.path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", f.path, answer.Status)
	}
	final := filepath.Join(o.dest, f.path)
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return err
	}
	part, err := os.Create(final + ".part")
	if err != nil {
		return err
	}
	defer part.Close()
	sum := adler32.New()
	size, err := copyBody(part, sum, answer.Body, block)
	if err != nil {
		return err
	}
	if size != f.size || sum.Sum32() != f.adler {
		return fmt.Errorf("%s: %d bytes, sum %08x", f.path, size, sum.Sum32())
	}
	if o.fsync {
		if err := part.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(final+".part", final); err != nil {
		return err
	}
	if o.fsync {
		return syncDirectory(filepath.Dir(final))
	}
	return nil
}

func main() {
	url := flag.String("url", "", "stands before every path of the manifest")
	list := flag.String("manifest", "", "lines: path, size, Adler32 in hexadecimal")
	dest := flag.String("dest", "", "destination folder")
	client := flag.String("client", "", "PEM: certificate and key")
	ca := flag.String("ca", "", "PEM of the CA")
	slots := flag.Int("slots", 10, "files at a time")
	tuned := flag.Bool("tuned", false, "idle connections for every goroutine, large buffers")
	fresh := flag.Bool("fresh", false, "a connection per request")
	resume := flag.Bool("resume", false, "resume TLS sessions")
	fsync := flag.Bool("fsync", false, "sync every file and its directory")
	flag.Parse()

	run := &options{*url, *dest, *tuned, *fsync, newClient(*client, *ca, *slots, *tuned, *fresh, *resume)}
	work := make(chan file)
	var all sync.WaitGroup
	for range make([]struct{}, *slots) {
		all.Add(1)
		go func() {
			defer all.Done()
			var block []byte
			if *tuned {
				block = make([]byte, 1<<20)
			}
			for f := range work {
				must(run.fetch(f, block))
			}
		}()
	}
	for _, f := range manifest(*list) {
		work <- f
	}
	close(work)
	all.Wait()
}
