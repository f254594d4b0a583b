/* floor: what OpenSSL and the kernel ask for, and hardly anything else. N threads with a connection each that is kept
 * alive; SSL_read with read-ahead into 1 MiB, Adler32, write, rename. Only good enough for the server of these
 * benchmarks: no redirects, no deadlines, a header that fits into the first read.
 *
 *   floor HOST PORT MANIFEST DESTINATION CLIENT_PEM CA_PEM THREADS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { BLOCK = 1 << 20, MOST_FILES = 1 << 16, PATH = 256 };
struct file { char path[PATH]; long size; unsigned adler; };

static struct file files[MOST_FILES];
static int count;
static atomic_int next;
static const char *host, *destination;
static int port;
static SSL_CTX *context;

static SSL *connected(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    inet_pton(AF_INET, host, &address.sin_addr);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) err(1, "connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1) errx(1, "TLS handshake");
    return ssl;
}

static void write_all(int fd, const char *from, long size) {
    while (size > 0) {
        ssize_t done = write(fd, from, size);
        if (done < 0) err(1, "write");
        from += done, size -= done;
    }
}

/* Send the request; returns how many bytes of the body came with the header, moved to the start of the block. */
static long ask(SSL *ssl, const struct file *file, char *block) {
    char request[2 * PATH];
    int length = snprintf(request, sizeof request, "GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n", file->path, host);
    if (SSL_write(ssl, request, length) != length) errx(1, "request");
    int got = SSL_read(ssl, block, BLOCK);
    char *end = got > 0 ? memmem(block, got, "\r\n\r\n", 4) : NULL;
    if (!end || strncmp(block, "HTTP/1.1 200", 12)) errx(1, "%s: no good answer", file->path);
    long body = block + got - (end + 4);
    memmove(block, end + 4, body);
    return body;
}

static void fetch(SSL *ssl, const struct file *file, char *block) {
    char final[2 * PATH], part[2 * PATH + 8];
    snprintf(final, sizeof final, "%s/%s", destination, file->path);
    snprintf(part, sizeof part, "%s.part", final);
    long filled = ask(ssl, file, block), total = 0;
    int fd = open(part, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0) err(1, "%s", part);
    uLong sum = adler32(0, NULL, 0);
    while (total < file->size) {
        while (filled < BLOCK && total + filled < file->size) {
            int got = SSL_read(ssl, block + filled, BLOCK - filled);
            if (got <= 0) errx(1, "%s: cut", file->path);
            filled += got;
        }
        sum = adler32(sum, (Bytef *)block, filled);
        write_all(fd, block, filled);
        total += filled, filled = 0;
    }
    if (total != file->size || sum != file->adler) errx(1, "%s: wrong content", file->path);
    if (close(fd) || rename(part, final)) err(1, "%s", final);
}

static void *worker(void *unused) {
    char *block = malloc(BLOCK);
    SSL *ssl = connected();
    for (int at; (at = atomic_fetch_add(&next, 1)) < count;) fetch(ssl, &files[at], block);
    return unused;
}

static void read_manifest(const char *path) {
    FILE *list = fopen(path, "r");
    char *folder;
    if (!list) err(1, "%s", path);
    for (struct file *f = files; count < MOST_FILES && fscanf(list, "%255s %ld %x", f->path, &f->size, &f->adler) == 3; f++) {
        if (asprintf(&folder, "%s/%s", destination, f->path) < 0) err(1, "memory");
        for (char *at = folder + strlen(destination) + 1; (at = strchr(at, '/')); *at++ = '/') *at = 0, mkdir(folder, 0755);
        free(folder), count++;
    }
}

int main(int argc, char **argv) {
    if (argc != 8) errx(2, "floor HOST PORT MANIFEST DESTINATION CLIENT_PEM CA_PEM THREADS");
    host = argv[1], port = atoi(argv[2]), destination = argv[4];
    read_manifest(argv[3]);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, 256 << 10);
    if (SSL_CTX_use_certificate_chain_file(context, argv[5]) != 1 || SSL_CTX_load_verify_locations(context, argv[6], NULL) != 1
        || SSL_CTX_use_PrivateKey_file(context, argv[5], SSL_FILETYPE_PEM) != 1) errx(1, "credentials");
    int threads = atoi(argv[7]);
    pthread_t ids[threads];
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, worker, NULL);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    return 0;
}
