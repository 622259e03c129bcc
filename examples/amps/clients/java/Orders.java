// Subscribes to orders, publishes one and prints it.
//
//   mvn dependency:copy -Dartifact=com.crankuptheamps:amps-client:5.3.5.3 -DoutputDirectory=.
//   java -cp amps-client-5.3.5.3.jar Orders.java [URL]
//
// For tcps, give java a truststore with the certificate of the proxy:
// -Djavax.net.ssl.trustStore=FILE -Djavax.net.ssl.trustStorePassword=PASSWORD

import com.crankuptheamps.client.Client;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

public class Orders {
    public static void main(String[] args) throws Exception {
        String url = args.length > 0 ? args[0] : "tcp://localhost:8080/client/amps/json?http_preflight=true";

        // region connect
        Client client = new Client("orders-java");
        client.addHttpPreflightHeader("Authorization: Bearer s3cret");
        client.setHeartbeat(20);
        client.connect(url);
        client.logon();
        // endregion

        CountDownLatch received = new CountDownLatch(1);
        client.subscribe(message -> {
            System.out.println(message.getTopic() + " " + message.getData());
            received.countDown();
        }, "orders", 10_000);
        client.publish("orders", "{\"id\": 1, \"client\": \"java\"}");
        client.publishFlush(10_000);
        if (!received.await(10, TimeUnit.SECONDS)) {
            throw new IllegalStateException("nothing came");
        }
        client.disconnect();
    }
}
