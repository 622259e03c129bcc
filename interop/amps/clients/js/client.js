// Runs the AMPS client for JavaScript once: see ../README.md.
'use strict';

const fs = require('fs');
const { Client, DefaultServerChooser, TypeHelper } = require('amps');

const args = Object.fromEntries(process.argv.slice(2).map(arg => {
  const at = arg.indexOf('=');
  return [arg.slice(0, at), arg.slice(at + 1)];
}));

const tell = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');

// The bodies stay unchanged. By default the client would parse and format them.
TypeHelper.helper('json', { serialize: text => [text], deserialize: text => text });

const highlyAvailable = args.ha === 'true';

// connect connects and logs on. The client accepts no header fields. It sends the user name
// and the password in the URL as Basic credentials.
async function connect(onDisconnect = () => {}) {
  let client;
  let connected = false;
  if (highlyAvailable) {
    const chooser = new DefaultServerChooser();
    chooser.add(args.url);
    client = Client.createMemoryBacked(args.name).serverChooser(chooser);
  } else {
    client = new Client(args.name).disconnectHandler(() => {
      if (connected) { // the handler is also called if the connection fails
        tell('disconnected');
        onDisconnect();
      }
    });
  }
  if (args.heartbeat) {
    client.heartbeat(Number(args.heartbeat), 2 * Number(args.heartbeat));
  }
  await client.connect(highlyAvailable ? undefined : args.url);
  connected = true;
  tell('connected');
  return client;
}

async function subscribe(client, onMessage) {
  if (highlyAvailable) {
    const discard = message => {
      onMessage(message);
      client.bookmarkStore().discard(message);
    };
    await client.subscribe(discard, args.from, '', { bookmark: Client.Bookmarks.EPOCH });
  } else {
    await client.subscribe(onMessage, args.from);
  }
  tell('subscribed');
}

// persisted waits until the publish store is empty. A flush would be lost together with its
// connection.
async function persisted(store) {
  while (store.unpersistedCount() > 0) {
    await new Promise(resolve => setTimeout(resolve, 10));
  }
}

// exchange publishes the lines of a file, and writes the messages that arrive to another
// file at the same time.
async function exchange() {
  const client = await connect();
  const received = [];
  let complete;
  const all = new Promise(resolve => { complete = resolve; });
  await subscribe(client, message => {
    if (received.push(message.data) === Number(args.count)) {
      complete();
    }
  });
  for (const line of fs.readFileSync(args.publish, 'utf8').split('\n').slice(0, -1)) {
    client.publish(args.to, line);
  }
  if (highlyAvailable) {
    await persisted(client.publishStore());
    tell('published', { unpersisted: client.publishStore().unpersistedCount() });
  } else {
    await client.flush();
    tell('published', { unpersisted: 0 });
  }
  await all;
  await client.disconnect();
  fs.writeFileSync(args.receive, received.map(data => data + '\n').join(''));
  tell('received');
}

// sow writes the records that a query finds to a file.
async function sow() {
  const client = await connect();
  const seen = { group_begin: 0, sow: 0, group_end: 0 };
  let records = '';
  await new Promise((resolve, reject) => {
    client.sow(message => {
      const command = message.header.command();
      if (command in seen) {
        seen[command]++;
      }
      if (command === 'sow') {
        records += message.data + '\n';
      }
      if (command === 'group_end') {
        resolve();
      }
    }, args.from, args.filter).catch(reject);
  });
  await client.disconnect();
  fs.writeFileSync(args.receive, records);
  tell('answered', seen);
}

// wait sends nothing, and waits for one message or the end of the connection.
async function wait() {
  let over;
  const end = new Promise(resolve => { over = resolve; });
  const client = await connect(over);
  await subscribe(client, message => {
    tell('message', { data: message.data });
    over();
  });
  await end;
  await client.disconnect();
}

const modes = { exchange, sow, wait, connect: async () => (await connect()).disconnect() };
modes[args.mode]().catch(err => {
  tell('failed', { error: err.name, message: err.message });
  process.exit(1); // a refused connection may stay open
});
