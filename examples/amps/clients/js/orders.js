// Subscribes to orders, publishes one and prints it.
//
//   npm install amps
//   node orders.js [URL]
//
// For wss with a certificate of your own: NODE_EXTRA_CA_CERTS=cert.pem node orders.js

const { Client } = require('amps');

async function main() {
  const url = process.argv[2] || 'ws://ann:s3cret@localhost:8080/ws/amps/json';

  // region connect
  const client = new Client('orders-js');
  client.heartbeat(20);
  await client.connect(url); // ws://USER:TOKEN@…: it has no other way to send the token
  // endregion

  const received = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('nothing came')), 10_000).unref();
    client.subscribe(message => {
      console.log(message.t, JSON.stringify(message.data));
      resolve();
    }, 'orders').then(() => client.publish('orders', { id: 1, client: 'js' }), reject);
  });
  await received;
  await client.disconnect();
}

main().catch(error => {
  console.error(error.message || error);
  process.exit(1);
});
