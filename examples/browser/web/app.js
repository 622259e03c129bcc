// The page is a client of the broker, as any TCP client is. It sends and receives lines, each a
// JSON object. The tunnel is a pair of streams of bytes.
import { RefusalError, connect } from './preflight/preflight.js';

const KEPT = 200; // messages on the page

const [state, reason, reconnect, topics, messages] = ['state', 'reason', 'reconnect', 'topics', 'messages']
  .map((id) => document.getElementById(id));
const list = messages.querySelector('ol');
const wanted = new Set(); // the topics, for the next connection
let writer; // of the tunnel; undefined without one

function show(name, why = '') {
  const texts = { connecting: 'Connecting', connected: 'Connected', disconnected: 'Disconnected' };
  state.textContent = texts[name];
  state.dataset.state = name;
  reason.textContent = why;
  reconnect.hidden = name !== 'disconnected';
}

async function talk() {
  show('connecting');
  try {
    // Relative to the page, for a proxy may have put it below a path.
    const tunnel = await connect(new URL('lines', document.baseURI));
    tunnel.closed.catch(() => {}); // the streams report the same error
    writer = tunnel.writable.getWriter();
    show('connected');
    for (const topic of wanted) send({ c: 'subscribe', t: topic });
    await receive(tunnel.readable);
    writer.close().catch(() => {}); // tells the server that nothing was lost
    show('disconnected', 'The server has ended the connection.');
  } catch (error) {
    show('disconnected', error instanceof RefusalError
      ? `${error.message}. The origin of this page is ${window.origin}: the server allows it if it `
        + `was started with -origin ${window.origin}.`
      : error.message);
  }
  writer = undefined;
  topics.replaceChildren();
}

async function receive(readable) {
  const reader = readable.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ''; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop(); // has no end yet
    for (const line of lines) handle(JSON.parse(line));
  }
}

function handle({ c: command, t: topic, d: data }) {
  if (command === 'subscribed') {
    if ([...topics.children].every((item) => item.textContent !== topic)) topics.append(element('li', topic));
  } else if (command === 'message') {
    const time = element('time', new Date().toLocaleTimeString());
    const item = element('li');
    item.append(time, element('b', topic), element('span', typeof data === 'string' ? data : JSON.stringify(data)));
    list.append(item);
    if (list.children.length > KEPT) list.firstElementChild.remove();
    document.getElementById('empty').hidden = true;
    messages.scrollTop = messages.scrollHeight;
  }
}

function element(name, text = '') {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

// The reader reports why the tunnel has failed, so a failed write needs no report.
function send(line) {
  writer.write(new TextEncoder().encode(`${JSON.stringify(line)}\n`)).catch(() => {});
}

function onSubmit(id, act) {
  document.getElementById(id).addEventListener('submit', (event) => {
    event.preventDefault();
    if (writer) act(event.target.elements);
    else reason.textContent = 'Nothing was sent: the page is not connected.';
  });
}

onSubmit('subscribe', ({ topic }) => {
  wanted.add(topic.value);
  send({ c: 'subscribe', t: topic.value });
});
onSubmit('publish', ({ topic, message }) => {
  send({ c: 'publish', t: topic.value, d: message.value });
  message.value = '';
  message.focus();
});
reconnect.addEventListener('click', talk);
talk();
