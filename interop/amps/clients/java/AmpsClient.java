import com.crankuptheamps.client.Client;
import com.crankuptheamps.client.DefaultServerChooser;
import com.crankuptheamps.client.HAClient;
import com.crankuptheamps.client.MemoryBookmarkStore;
import com.crankuptheamps.client.MemoryPublishStore;
import com.crankuptheamps.client.Message;
import com.crankuptheamps.client.MessageHandler;
import com.crankuptheamps.client.TCPSTransport;
import com.crankuptheamps.client.exception.AMPSException;

import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** One conversation of AMPS's Java client with a server: see ../README.md. */
public final class AmpsClient {
    private final Map<String, String> args = new HashMap<>();
    private final CountDownLatch over = new CountDownLatch(1);
    private MemoryPublishStore store;
    private Client client;

    public static void main(String[] args) {
        try {
            new AmpsClient(args).run();
            System.exit(0); // threads of the client may still run
        } catch (AMPSException e) {
            tell("failed", "error", quote(e.getClass().getSimpleName()), "message", quote(e.getMessage()));
        } catch (Exception e) {
            e.printStackTrace();
        }
        System.exit(1);
    }

    private AmpsClient(String[] args) {
        for (String arg : args) {
            int at = arg.indexOf('=');
            this.args.put(arg.substring(0, at), arg.substring(at + 1));
        }
    }

    private void run() throws Exception {
        connect();
        switch (args.get("mode")) {
            case "connect":
                break;
            case "exchange":
                exchange();
                break;
            case "sow":
                sow();
                break;
            case "wait":
                await();
                break;
            default:
                throw new IllegalArgumentException(args.get("mode"));
        }
        client.close();
    }

    private boolean highlyAvailable() {
        return "true".equals(args.get("ha"));
    }

    /** Connects and logs on. */
    private void connect() throws Exception {
        if (args.containsKey("ca")) {
            TCPSTransport.setDefaultSSLContext(trusting(args.get("ca")));
        }
        client = highlyAvailable() ? new HAClient(args.get("name")) : new Client(args.get("name"));
        if (args.containsKey("field")) {
            client.addHttpPreflightHeader(args.get("field"));
        }
        if (args.containsKey("key")) {
            client.addHttpPreflightHeader(args.get("key"), args.get("value"));
        }
        if (highlyAvailable()) {
            store = new MemoryPublishStore(10000);
            client.setPublishStore(store);
            client.setBookmarkStore(new MemoryBookmarkStore());
            DefaultServerChooser chooser = new DefaultServerChooser();
            chooser.add(args.get("url"));
            HAClient ha = (HAClient) client;
            ha.setServerChooser(chooser);
            ha.connectAndLogon();
        } else {
            client.setDisconnectHandler(ignored -> {
                tell("disconnected");
                over.countDown();
            });
            client.connect(args.get("url"));
            client.logon();
        }
        if (args.containsKey("heartbeat")) {
            client.setHeartbeat(Integer.parseInt(args.get("heartbeat")));
        }
        tell("connected");
    }

    private static SSLContext trusting(String file) throws Exception {
        KeyStore roots = KeyStore.getInstance(KeyStore.getDefaultType());
        roots.load(null);
        try (InputStream in = new FileInputStream(file)) {
            roots.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(roots);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    private void subscribe(MessageHandler onMessage) throws Exception {
        if (highlyAvailable()) {
            client.bookmarkSubscribe(message -> {
                onMessage.invoke(message);
                try {
                    client.getBookmarkStore().discard(message);
                } catch (AMPSException e) {
                    throw new IllegalStateException(e);
                }
            }, args.get("from"), null, null, Client.Bookmarks.EPOCH, null, 0);
        } else {
            client.subscribe(onMessage, args.get("from"), null, 0);
        }
        tell("subscribed");
    }

    /** Publishes the lines of a file, and meanwhile writes what comes to another. */
    private void exchange() throws Exception {
        int count = Integer.parseInt(args.get("count"));
        List<String> received = Collections.synchronizedList(new ArrayList<>());
        subscribe(message -> {
            received.add(message.getData());
            if (received.size() == count) {
                over.countDown();
            }
        });
        for (String line : Files.readAllLines(Path.of(args.get("publish")), StandardCharsets.UTF_8)) {
            client.publish(args.get("to"), line);
        }
        client.publishFlush();
        tell("published", "unpersisted", Long.toString(store == null ? 0 : store.unpersistedCount()));
        over.await();
        client.close();
        Files.write(Path.of(args.get("receive")), received, StandardCharsets.UTF_8);
        tell("received");
    }

    /** Writes the records that a query finds to a file. */
    private void sow() throws Exception {
        int begins = 0, ends = 0;
        List<String> records = new ArrayList<>();
        for (Message message : client.sow(args.get("from"), args.get("filter"))) {
            switch (message.getCommand()) {
                case Message.Command.GroupBegin:
                    begins++;
                    break;
                case Message.Command.SOW:
                    records.add(message.getData());
                    break;
                case Message.Command.GroupEnd:
                    ends++;
                    break;
            }
        }
        Files.write(Path.of(args.get("receive")), records, StandardCharsets.UTF_8);
        tell("answered", "group_begin", Integer.toString(begins),
            "sow", Integer.toString(records.size()), "group_end", Integer.toString(ends));
    }

    /** Says nothing, and waits for one message or the end of the connection. */
    private void await() throws Exception {
        subscribe(message -> {
            tell("message", "data", quote(message.getData()));
            over.countDown();
        });
        over.await();
    }

    /** Prints an event: the client calls back from its own threads. */
    private static synchronized void tell(String event, String... fields) {
        StringBuilder line = new StringBuilder("{\"event\":").append(quote(event));
        for (int i = 0; i < fields.length; i += 2) {
            line.append(',').append(quote(fields[i])).append(':').append(fields[i + 1]);
        }
        System.out.println(line.append('}'));
        System.out.flush();
    }

    private static String quote(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c < ' ' || c > '~' || c == '"' || c == '\\') {
                quoted.append(String.format("\\u%04x", (int) c));
            } else {
                quoted.append(c);
            }
        }
        return quoted.append('"').toString();
    }
}
