// Runs the AMPS client for C++ once: see ../README.md.

#include <amps/DefaultServerChooser.hpp>
#include <amps/HAClient.hpp>
#include <amps/ampsplusplus.hpp>

#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

static std::map<std::string, std::string> args;

static bool given(const std::string& name) { return args.count(name) > 0; }
static bool highly_available() { return args["ha"] == "true"; }

static std::string quote(const std::string& text)
{
  std::string quoted = "\"";
  for (unsigned char c : text)
  {
    if (c < ' ')
    {
      char escape[8];
      snprintf(escape, sizeof escape, "\\u%04x", c);
      quoted += escape;
      continue;
    }
    if (c == '"' || c == '\\')
    {
      quoted += '\\';
    }
    quoted += char(c);
  }
  return quoted + '"';
}

// tell prints an event. Any thread may call it: the client calls back from its own threads.
static void tell(const std::string& event, const std::string& fields = "")
{
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  std::cout << "{\"event\":" << quote(event) << fields << "}" << std::endl;
}

// The program waits for this: the last message, or the end of the connection.
class Signal
{
public:
  void set()
  {
    std::lock_guard<std::mutex> lock(_mutex);
    _set = true;
    _condition.notify_all();
  }
  void wait()
  {
    std::unique_lock<std::mutex> lock(_mutex);
    _condition.wait(lock, [this] { return _set; });
  }

private:
  std::mutex _mutex;
  std::condition_variable _condition;
  bool _set = false;
};

static Signal over;

static void disconnected(AMPS::Client&, void*)
{
  tell("disconnected");
  over.set();
}

// trust makes the client verify certificates, which it does not do by default.
static void trust(const std::string& file)
{
  if (amps_ssl_init("libssl.so.3") != 0 || amps_ssl_load_verify_locations(file.c_str(), nullptr) != 0 ||
      amps_ssl_set_verify(1) != 0)
  {
    throw std::runtime_error(amps_ssl_get_error());
  }
}

static void configure(AMPS::Client& client)
{
  if (given("field"))
  {
    client.addHttpPreflightHeader(args["field"]);
  }
  if (given("key"))
  {
    client.addHttpPreflightHeader(args["key"], args["value"]);
  }
  if (given("batch"))
  {
    // In ms. publishFlush sends the batch earlier. Over TLS, the client disconnects if the time
    // passes while it sends.
    client.setPublishBatching(std::stoul(args["batch"]), 60000);
  }
}

static AMPS::Client connect_once()
{
  AMPS::Client client(args["name"]);
  client.setDisconnectHandler(AMPS::DisconnectHandler(disconnected, nullptr));
  configure(client);
  client.connect(args["url"]);
  client.logon();
  return client;
}

static AMPS::Client connect_highly_available()
{
  AMPS::HAClient client = AMPS::HAClient::createMemoryBacked(args["name"]);
  configure(client);
  AMPS::ServerChooser chooser(new AMPS::DefaultServerChooser());
  chooser.add(args["url"]);
  client.setServerChooser(chooser);
  client.connectAndLogon();
  return client;
}

// connect connects and logs on.
static AMPS::Client connect()
{
  if (given("ca"))
  {
    trust(args["ca"]);
  }
  AMPS::Client client = highly_available() ? connect_highly_available() : connect_once();
  if (given("heartbeat"))
  {
    client.setHeartbeat(unsigned(std::stoul(args["heartbeat"])));
  }
  tell("connected");
  return client;
}

static void subscribe(AMPS::Client& client, const std::function<void(const AMPS::Message&)>& on_message)
{
  if (highly_available())
  {
    AMPS::BookmarkStore store = client.getBookmarkStore();
    client.bookmarkSubscribe(
      [store, on_message](const AMPS::Message& message) mutable {
        on_message(message);
        store.discard(message);
      },
      args["from"], 0, AMPS_BOOKMARK_EPOCH);
  }
  else
  {
    client.subscribe(on_message, args["from"]);
  }
  tell("subscribed");
}

// exchange publishes the lines of a file, and writes the messages that arrive to another
// file at the same time.
static void exchange(AMPS::Client client)
{
  const size_t count = std::stoul(args["count"]);
  std::vector<std::string> received;
  subscribe(client, [&](const AMPS::Message& message) {
    received.push_back(message.getData());
    if (received.size() == count)
    {
      over.set();
    }
  });
  std::ifstream lines(args["publish"]);
  for (std::string line; std::getline(lines, line);)
  {
    client.publish(args["to"], line);
  }
  client.publishFlush();
  size_t unpersisted = highly_available() ? client.getPublishStore().unpersistedCount() : 0;
  tell("published", ",\"unpersisted\":" + std::to_string(unpersisted));
  over.wait();
  client.disconnect();
  std::ofstream out(args["receive"]);
  for (const std::string& data : received)
  {
    out << data << '\n';
  }
  out.close();
  tell("received");
}

// sow writes the records that a query finds to a file.
static void sow(AMPS::Client client)
{
  std::map<std::string, int> seen{{"group_begin", 0}, {"sow", 0}, {"group_end", 0}};
  std::ofstream out(args["receive"]);
  for (const AMPS::Message& message : client.sow(args["from"], args["filter"]))
  {
    std::string command = message.getCommand();
    seen[command]++;
    if (command == "sow")
    {
      out << std::string(message.getData()) << '\n';
    }
  }
  out.close();
  std::string fields;
  for (const auto& entry : seen)
  {
    fields += "," + quote(entry.first) + ":" + std::to_string(entry.second);
  }
  client.disconnect();
  tell("answered", fields);
}

// wait sends nothing, and waits for one message or the end of the connection.
static void wait(AMPS::Client client)
{
  subscribe(client, [](const AMPS::Message& message) {
    tell("message", ",\"data\":" + quote(message.getData()));
    over.set();
  });
  over.wait();
  client.disconnect();
}

int main(int argc, char** argv)
{
  for (int i = 1; i < argc; i++)
  {
    std::string arg = argv[i];
    size_t at = arg.find('=');
    args[arg.substr(0, at)] = arg.substr(at + 1);
  }
  const std::map<std::string, void (*)(AMPS::Client)> modes{
    {"exchange", exchange}, {"sow", sow}, {"wait", wait}, {"connect", [](AMPS::Client client) { client.disconnect(); }}};
  try
  {
    modes.at(args["mode"])(connect());
    return 0;
  }
  catch (const AMPS::AMPSException& e)
  {
    tell("failed", ",\"error\":" + quote(e.getClassName()) + ",\"message\":" + quote(e.what()));
  }
  catch (const std::exception& e)
  {
    std::cerr << e.what() << std::endl;
  }
  return 1;
}
