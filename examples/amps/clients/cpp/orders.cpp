// Subscribes to orders, publishes one and prints it.
//
// The Makefile beside it fetches the C++ client, which is a part of the Python
// package, and builds this: make && ./orders [URL]

#include <amps/amps.h>
#include <amps/ampsplusplus.hpp>

#include <chrono>
#include <future>
#include <iostream>
#include <string>

int main(int argc, char** argv)
{
  std::string url = argc > 1 ? argv[1] : "tcp://localhost:8080/client/amps/json?http_preflight=true";
  std::promise<void> received;
  try
  {
    // region tls
    if (url.rfind("tcps:", 0) == 0)
    {
      if (amps_ssl_init("libssl.so.3") || amps_ssl_load_verify_locations("cert.pem", nullptr) || amps_ssl_set_verify(1))
      {
        throw std::runtime_error(amps_ssl_get_error());
      }
    }
    // endregion

    // region connect
    AMPS::Client client("orders-cpp");
    client.addHttpPreflightHeader("Authorization: Bearer s3cret");
    client.setHeartbeat(20);
    client.setPublishBatching(4 << 20, 60000); // through a tunnel, a message above 16 KiB needs it
    client.connect(url);
    client.logon();
    // endregion

    client.subscribe([&](const AMPS::Message& message) {
      std::cout << message.getTopic() << " " << message.getData() << std::endl;
      received.set_value();
    }, "orders", 10000);
    client.publish("orders", "{\"id\": 1, \"client\": \"cpp\"}");
    client.publishFlush(10000);
    if (received.get_future().wait_for(std::chrono::seconds(10)) != std::future_status::ready)
    {
      throw std::runtime_error("nothing came");
    }
    client.disconnect();
  }
  catch (const std::exception& e)
  {
    std::cerr << e.what() << std::endl;
    return 1;
  }
}
