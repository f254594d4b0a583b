import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.KeyStoreWrapper;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/** SearchServer HOME CONFIG: a real Elasticsearch node in this process; its launcher is the one part that is not published. */
public class SearchServer {
  public static void main(String[] args) throws Exception {
    LogConfigurator.configureESLogging();
    Path home = Path.of(args[0]).toAbsolutePath();
    Path config = Path.of(args[1]).toAbsolutePath();
    Settings.Builder settings = Settings.builder().loadFromPath(config.resolve("elasticsearch.yml"));
    settings.put("path.home", home.toString());
    String password = System.getenv("ES_PASSWORD");
    if (password != null && !password.isEmpty()) {
      KeyStoreWrapper keystore = KeyStoreWrapper.create();
      keystore.setString("bootstrap.password", password.toCharArray());
      settings.setSecureSettings(keystore).put("xpack.security.enabled", true);
    } else {
      settings.put("xpack.security.enabled", false);
    }
    Environment env = new Environment(settings.build(), config);
    LogConfigurator.configureWithoutConfig(env.settings());
    PluginsLoader plugins = PluginsLoader.createPluginsLoader(Bundles.modules(env), Bundles.plugins(env), Map.of());
    Node node = new Node(env, plugins);
    node.start();
    System.out.println("READY");
    CountDownLatch stopped = new CountDownLatch(1);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      try { node.close(); } catch (Exception e) { e.printStackTrace(); }
      stopped.countDown();
    }));
    stopped.await();
  }
}
