import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import org.codelibs.opensearch.runner.node.OpenSearchRunnerNode;
import org.opensearch.common.logging.LogConfigurator;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.plugins.Plugin;

/** SearchServer HOME CONFIG: a real OpenSearch node in this process, with the modules that the tests need. */
public class SearchServer {
  private static final String[] MODULES = {
    "org.opensearch.transport.Netty4ModulePlugin",
    "org.opensearch.index.reindex.ReindexModulePlugin",
    "org.opensearch.analysis.common.CommonAnalysisModulePlugin",
    "org.opensearch.index.mapper.MapperExtrasModulePlugin",
    "org.opensearch.ingest.common.IngestCommonModulePlugin",
  };

  public static void main(String[] args) throws Exception {
    Path home = Path.of(args[0]).toAbsolutePath();
    Path config = Path.of(args[1]).toAbsolutePath();
    Settings settings = Settings.builder().loadFromPath(config.resolve("opensearch.yml")).put("path.home", home.toString()).build();
    LogConfigurator.registerErrorListener();
    LogConfigurator.configureWithoutConfig(settings);
    List<Class<? extends Plugin>> plugins = new ArrayList<>();
    for (String name : MODULES) plugins.add(Class.forName(name).asSubclass(Plugin.class));
    OpenSearchRunnerNode node = new OpenSearchRunnerNode(new Environment(settings, config), plugins);
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
