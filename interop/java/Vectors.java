import static java.nio.charset.StandardCharsets.*;

import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.file.*;
import java.security.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.BooleanSupplier;
import java.util.stream.Stream;

/** Runs the vectors of spec/vectors for a client, and exchanges bytes with a server. */
public final class Vectors {
    private static final String SAMPLE = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; // the Sec-WebSocket-Accept in vectors
    private static final Map<String, String> HEADS = Map.of( // of the answer in front of a stream
        "framed", "HTTP/1.1 101 x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\nPreflight-Framing: capsule\r\n\r\n",
        "websocket", "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + "Sec-WebSocket-Accept: " + SAMPLE + "\r\nSec-WebSocket-Protocol: preflight.v1\r\n\r\n");
    private static final ExecutorService TASKS = Executors.newCachedThreadPool();

    /** A socket whose peer sends the bytes of a vector, whatever it receives. */
    private static final class Peer extends Socket {
        private final byte[] bytes;
        private final int cut; // the place where the bytes are split in two; 0: one at a time
        private final String transport;
        private final ByteArrayOutputStream sent = new ByteArrayOutputStream();
        private int at, request; // request: the length of the request in sent
        private boolean starved, outputEnded, closed; // starved: the client waits for more bytes

        Peer(byte[] bytes, int cut, String transport) {
            this.bytes = bytes.clone();
            this.cut = cut;
            this.transport = transport;
        }

        synchronized int receive(byte[] b, int off, int len) throws IOException {
            if (at == 0) confirm();
            if (at < bytes.length) {
                int n = Math.min(len, cut == 0 ? 1 : at < cut ? cut - at : bytes.length - at);
                System.arraycopy(bytes, at, b, off, n);
                at += n;
                return n;
            }
            starved = true;
            notifyAll();
            if (transport.equals("reset")) throw new SocketException("Connection reset");
            if (transport.equals("open")) until(() -> outputEnded || closed);
            return -1;
        }

        /** Waits until state is true. It returns false after a timeout. */
        synchronized boolean until(BooleanSupplier state) {
            long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
            try {
                for (long left; !state.getAsBoolean(); wait(left))
                    if ((left = (end - System.nanoTime()) / 1_000_000) <= 0) return false;
            } catch (InterruptedException e) {
                return false;
            }
            return true;
        }

        /** Replaces the Sec-WebSocket-Accept in the vector by that for the key of the request. */
        private void confirm() {
            String text = sent.toString(ISO_8859_1), name = "Sec-WebSocket-Key: ";
            if (!text.startsWith("GET ")) return;
            request = text.indexOf("\r\n\r\n") + 4;
            int key = text.indexOf(name) + name.length();
            int place = new String(bytes, ISO_8859_1).indexOf(SAMPLE);
            if (key < name.length() || place < 0) return;
            byte[] accept = accept(text.substring(key, key + 24)).getBytes(ISO_8859_1);
            System.arraycopy(accept, 0, bytes, place, accept.length);
        }

        @Override public InputStream getInputStream() {
            return new InputStream() {
                @Override public int read() {
                    throw new AssertionError("a single byte is read without a buffer");
                }

                @Override public int read(byte[] b, int off, int len) throws IOException {
                    return receive(b, off, len);
                }
            };
        }

        @Override public OutputStream getOutputStream() {
            return new OutputStream() {
                @Override public void write(int b) {
                    write(new byte[] {(byte) b}, 0, 1);
                }

                @Override public void write(byte[] b, int off, int len) {
                    synchronized (Peer.this) {
                        sent.write(b, off, len);
                        Peer.this.notifyAll();
                    }
                }
            };
        }

        @Override public synchronized void shutdownOutput() {
            outputEnded = true;
            notifyAll();
        }

        @Override public synchronized void close() {
            closed = true;
            notifyAll();
        }

        @Override public synchronized boolean isClosed() {
            return closed;
        }
    }

    private static String accept(String key) {
        try {
            byte[] b = (key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").getBytes(ISO_8859_1);
            return Base64.getEncoder().encodeToString(MessageDigest.getInstance("SHA-1").digest(b));
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e); // every Java platform has SHA-1
        }
    }

    private final Map<String, String> keys = new HashMap<>();
    private final byte[] bytes;

    private Vectors(Path file) throws IOException {
        byte[] all = Files.readAllBytes(file);
        int end = new String(all, ISO_8859_1).indexOf("\n\n");
        bytes = Arrays.copyOfRange(all, end + 2, all.length);
        for (String line : new String(all, 0, end, UTF_8).split("\n")) {
            String[] pair = line.split(": ?", 2);
            keys.put(pair[0], pair[1]);
        }
    }

    private String key(String name, String other) {
        return keys.getOrDefault(name, other);
    }

    /** Runs the vector once. It returns an error text, or null. */
    private String run(int cut) throws Exception {
        String kind = key("kind", ""), carrier = key("carriers", "").split(", ")[0];
        boolean head = kind.equals("response-head");
        if (!head) carrier = kind.equals("capsules") ? "framed" : "websocket";
        byte[] front = (head ? "" : HEADS.get(carrier)).getBytes(ISO_8859_1);
        byte[] all = Arrays.copyOf(front, front.length + bytes.length);
        System.arraycopy(bytes, 0, all, front.length, bytes.length);
        try (Peer peer = new Peer(all, cut == 0 ? 0 : front.length + cut, key("transport", ""))) {
            Preflight tunnel;
            try {
                tunnel = new Preflight(peer, "edge.example", "/amps/json", carrier, key("protocols", "tcp"));
            } catch (IOException e) {
                if (!peer.closed || peer.sent.size() != peer.request) return "it is not closed";
                // This client has one carrier, so that it fails where another would try its next one.
                return key("expect", "").equals("fall") ? null : differ("the result", key("expect", ""), "fail");
            }
            String wrong = differ("the result", key("expect", ""), head ? "accept" : "data");
            return wrong != null ? wrong : stream(tunnel, peer, carrier);
        }
    }

    /** Checks what the application and the peer receive. */
    private String stream(Preflight tunnel, Peer peer, String carrier) throws Exception {
        ByteArrayOutputStream data = new ByteArrayOutputStream();
        CompletableFuture<String> end = new CompletableFuture<>();
        TASKS.submit(() -> {
            byte[] b = new byte[4096];
            try {
                for (int n; (n = tunnel.input.read(b)) >= 0;) {
                    data.write(b, 0, n);
                    synchronized (peer) {
                        peer.notifyAll();
                    }
                }
                end.complete("clean");
            } catch (IOException e) {
                end.complete(e instanceof EOFException ? "truncated"
                    : e instanceof ProtocolException ? "malformed" : "reset");
            }
        });
        String want = key("end", ""), all = key("data", ""), got;
        if (want.equals("open")) {
            boolean waits = peer.until(() -> peer.starved && data.size() >= all.length() / 2);
            got = waits && !end.isDone() ? "open" : "another end";
        } else {
            got = end.get(10, TimeUnit.SECONDS);
        }
        String hex = HexFormat.of().formatHex(data.toByteArray());
        boolean part = want.equals("malformed") && all.startsWith(hex);
        String wrong = differ("the end", want, got);
        if (wrong == null && !part) wrong = differ("the data", all, hex);
        return wrong != null ? wrong : reaction(tunnel, peer, carrier);
    }

    /** Checks what the receiver sends, and whether it can write. */
    private String reaction(Preflight tunnel, Peer peer, String carrier) throws Exception {
        boolean ws = carrier.equals("websocket"), open = key("transport", "").equals("open");
        boolean broken = key("end", "").equals("malformed") || keys.containsKey("after");
        Callable<List<String>> sent = () -> frames(peer, ws);
        for (String name : List.of("pong", "ws-pong", "close")) {
            String value = keys.get(name);
            if (value == null) continue;
            String frame = name.equals("pong") ? "2 ad70f10508" + value
                : name.equals("ws-pong") ? "10 " + value
                : value.equals("none") ? "8 " : String.format("8 %04x", Integer.parseInt(value));
            if (!peer.until(() -> call(sent).contains(frame))) return "it did not send " + frame;
            if (name.equals("close")) {
                if (!peer.until(() -> peer.outputEnded)) return "it did not end its direction";
                if (call(sent).stream().filter(f -> f.startsWith("8 ")).count() != 1)
                    return "it sent several Close frames";
                if (call(sent).indexOf(frame) != call(sent).size() - 1) return "bytes after Close";
            }
        }
        if (broken && !peer.until(() -> peer.outputEnded)) return "it did not end its direction";
        boolean fails = broken || keys.containsKey("close");
        if (!fails && !open) return null; // the transport may have ended already
        if (!fails && !peer.until(() -> peer.starved)) return "it has stopped reading";
        try {
            tunnel.output.write(1);
            return fails ? "it can still write" : null;
        } catch (IOException e) {
            return fails ? null : "it cannot write: " + e.getMessage();
        }
    }

    private static <T> T call(Callable<T> callable) {
        try {
            return callable.call();
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    /** Returns the opcodes and payloads that were sent. It throws if a form breaks M31 or M53. */
    private static List<String> frames(Peer peer, boolean ws) {
        synchronized (peer) {
            byte[] all = peer.sent.toByteArray();
            ByteBuffer in = ByteBuffer.wrap(all, peer.request, all.length - peer.request);
            List<String> frames = new ArrayList<>();
            while (in.hasRemaining()) {
                int opcode = 2, length = 0;
                byte[] key = new byte[4];
                if (ws) {
                    int first = in.get() & 255, second = in.get() & 255;
                    opcode = first & 15;
                    length = second & 127;
                    if ((first & 0xf0) != 128 || second < 128 || length > 125)
                        throw new IllegalStateException("a frame is not that of a short capsule");
                    in.get(key);
                }
                if (!ws) length = 5 + in.get(in.position() + 4);
                byte[] payload = new byte[length];
                in.get(payload);
                for (int i = 0; i < payload.length; i++) payload[i] ^= key[i & 3];
                if (opcode == 2 && payload.length != 5 + payload[4])
                    throw new IllegalStateException("a message does not contain one capsule");
                frames.add(opcode + " " + HexFormat.of().formatHex(payload));
            }
            return frames;
        }
    }

    private static String differ(String what, String want, String got) {
        return want.equals(got) ? null : what + " is " + got + " and not " + want;
    }

    /** Sends 1 MiB to a server that sends them back, and ends both directions. */
    private static void exchange(String address, String carrier) throws Exception {
        byte[] data = new byte[1 << 20];
        new Random(1).nextBytes(data);
        String[] parts = address.split(":");
        Socket socket = new Socket(parts[0], Integer.parseInt(parts[1]));
        try (Preflight tunnel = new Preflight(socket, address, "/", carrier, "tcp")) {
            Future<?> writing = TASKS.submit(() -> {
                tunnel.output.write(data);
                tunnel.shutdownOutput();
                return null;
            });
            byte[] back = tunnel.input.readAllBytes();
            writing.get(10, TimeUnit.SECONDS);
            if (!Arrays.equals(data, back)) throw new IOException("the bytes differ");
        }
        System.out.println("exchanged on " + carrier);
    }

    /** Its arguments are the folder of the vectors, or the address of a server and the carriers to try there. */
    public static void main(String[] args) throws Exception {
        for (int i = 1; i < args.length; i++) exchange(args[0], args[i]);
        if (args.length > 1) System.exit(0);
        int count = 0, runs = 0, failed = 0;
        List<Path> files = new ArrayList<>();
        for (String folder : List.of("response-head", "capsules", "websocket"))
            try (Stream<Path> in = Files.list(Path.of(args[0], folder))) {
                in.sorted().forEach(files::add);
            }
        for (Path file : files) {
            Vectors v = new Vectors(file);
            if (v.key("role", "").equals("server") || v.keys.containsKey("tls")) continue; // it has no TLS inside
            String wrong = null;
            int last = v.keys.containsKey("chunks") ? 0 : v.bytes.length; // 0: all splits
            for (int cut = v.bytes.length; cut >= last && wrong == null; cut--, runs++) wrong = v.run(cut);
            count++;
            if (wrong == null) continue;
            failed++;
            System.out.println(v.key("id", "") + ": " + wrong);
        }
        System.out.printf("vectors: %d, runs: %d, failed: %d%n", count, runs, failed);
        System.exit(failed == 0 ? 0 : 1);
    }
}
