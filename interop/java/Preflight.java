import static java.nio.charset.StandardCharsets.*;
import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.security.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.Stream;

/** A tunnel of spec/preflight.md on one carrier: upgrade, framed or websocket. Reads of a truncated stream throw an
 *  EOFException. It leaves out what is optional: fields of the application, TLS inside, other carriers. */
public final class Preflight implements Closeable {
    private interface Source { int read(byte[] b, int off, int len) throws IOException; }
    private static final String GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // of RFC 6455
    private static final String TEXT = "[\t -~\\x80-\\xff]*", FIELD = "[!#$%&'*+.^_`|~0-9A-Za-z-]+:" + TEXT;
    private static final int DATA = 0, FINAL_DATA = 1, PING = 4, PONG = 5, OURS = 0x2d70f100; // a type is OURS + DATA
    private static final int[] MAGIC = {0xad, 0x70, 0xf1}; // how each of our types begins on the wire
    private static final List<Integer> ANSWERS = List.of(2, 10, 8); // the opcodes of a PONG, a Pong and a Close
    private static final SecureRandom RANDOM = new SecureRandom();
    private static final ExecutorService TASKS = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        return thread;
    });
    public final InputStream input;
    public final OutputStream output;
    private final Socket socket;
    private final boolean raw, ws;
    private final DataInputStream wire, capsules; // capsules: the wire, or the payloads of its frames
    private final OutputStream out;
    private final Semaphore wanted = new Semaphore(0), ready = new Semaphore(0); // a piece: by the application, for it
    private final Map<Integer, byte[]> due = new ConcurrentHashMap<>(); // the newest answers that are not sent
    private final CompletableFuture<Void> over = new CompletableFuture<>(); // the transport has ended
    private final byte[] lastPing = new byte[8]; // behind our FINAL_DATA (M44)
    private ByteBuffer piece = ByteBuffer.allocate(0); // of the application's bytes
    private long frame; // how many of its bytes follow
    private int code = 1002; // of the Close behind a protocol error
    private boolean begun, fragmented, closed; // a capsule came; a message goes on; a Close was sent
    private volatile boolean last, confirmed, answered, closing; // FINAL_DATA came; M44; M45; close was called
    private volatile IOException failed, broken; // why reads fail; why writes fail

    /** Opens a tunnel over a connected Socket, or an SSLSocket that offers http/1.1 alone. */
    public Preflight(Socket socket, String host, String target, String carrier, String protocol)
            throws IOException, NoSuchAlgorithmException {
        this.socket = socket;
        raw = carrier.equals("upgrade");
        ws = carrier.equals("websocket");
        out = new BufferedOutputStream(socket.getOutputStream(), 1 << 16);
        wire = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
        capsules = ws ? new DataInputStream(stream(this::payload)) : wire;
        input = raw ? wire : stream(this::receive);
        output = raw ? socket.getOutputStream() : new OutputStream() {
            @Override public void write(int b) throws IOException { write(new byte[] {(byte) b}); }
            @Override public void write(byte[] b, int off, int len) throws IOException {
                for (int n; len > 0; off += n, len -= n) send(DATA, b, off, n = Math.min(len, 32768));
            }
        };
        byte[] nonce = new byte[16];
        RANDOM.nextBytes(nonce);
        RANDOM.nextBytes(lastPing);
        String key = Base64.getEncoder().encodeToString(nonce), token = ws ? "websocket" : protocol;
        String other = ws && !protocol.equals("tcp") ? protocol : null;
        try {
            check((host + target + protocol).matches("[!-~]+"), "the host, target or protocol is not visible ASCII");
            out.write(("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: " + token
                + "\r\nPreflight-Carriers: " + carrier + (raw ? "" : "\r\nPreflight-Framing: capsule")
                + (ws ? "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: preflight.v1" : "")
                + (ws ? "\r\nSec-WebSocket-Key: " + key : "")
                + (other == null ? "" : "\r\nPreflight-Protocol: " + other) + "\r\n\r\n").getBytes(US_ASCII));
            out.flush();
            Map<String, String> head = answer();
            check(head.get("").equals("101"), "the answer is " + head.get("") + ", and the code of the server "
                + head.get("preflight-refusal") + ": without a code, a proxy or another server sent it");
            check(String.join(",", list(head, "upgrade")).equalsIgnoreCase(token), "the 101 has another Upgrade");
            check(list(head, "connection").stream().anyMatch("upgrade"::equalsIgnoreCase), "the 101 has no Connection");
            check(head.get("preflight-tunnel") == null, "the 101 announces TLS inside");
            boolean framed = Set.copyOf(list(head, "preflight-framing")).equals(Set.of("capsule"));
            check(ws || (raw ? head.get("preflight-framing") == null : framed), "the 101 has another framing");
            byte[] digest = MessageDigest.getInstance("SHA-1").digest((key + GUID).getBytes(US_ASCII));
            String accept = Base64.getEncoder().encodeToString(digest), agreed = head.get("preflight-protocol");
            boolean same = other == null ? agreed == null : other.equalsIgnoreCase(agreed);
            check(!ws || accept.equals(head.get("sec-websocket-accept")), "the 101 has a wrong Sec-WebSocket-Accept");
            check(!ws || "preflight.v1".equals(head.get("sec-websocket-protocol")), "the 101 has another subprotocol");
            check(!ws || head.getOrDefault("sec-websocket-extensions", "").isEmpty(), "the 101 has an extension");
            check(!ws || same, "the 101 is for another protocol");
        } catch (IOException e) {
            socket.close();
            throw e;
        }
        if (!raw) TASKS.execute(this::run);
    }

    private static InputStream stream(Source source) {
        return new InputStream() {
            @Override public int read(byte[] b, int at, int len) throws IOException { return source.read(b, at, len); }
            @Override public int read() throws IOException {
                byte[] b = new byte[1];
                return read(b) < 0 ? -1 : b[0] & 255;
            }
        };
    }

    private static void check(boolean valid, String text) throws ProtocolException {
        if (!valid) throw new ProtocolException(text);
    }

    /** Returns the fields of the answer behind the interim ones. The empty name has the status. */
    private Map<String, String> answer() throws IOException {
        for (int heads = 0, room = 1 << 16; heads < 9; heads++) {
            StringBuilder text = new StringBuilder();
            for (int n = 0; text.indexOf("\n\n", n - 2) < 0 && text.indexOf("\n\r\n", n - 3) < 0; n++) {
                int c = wire.read();
                check(c >= 0 && room-- > 0, "the head of the answer has no end, or is too long");
                check(n > 6 || c == "HTTP/1.".charAt(n), "the answer is not HTTP/1: check the address");
                text.append((char) c);
            }
            String[] lines = text.toString().split("\r?\n", 2);
            check(lines[0].matches("HTTP/1\\.\\d [1-9]\\d\\d( " + TEXT + ")?"), "the status line is malformed");
            Map<String, String> head = new HashMap<>(Map.of("", lines[0].substring(9, 12)));
            for (String line : lines[1].replaceAll("\r?\n[ \t]+", " ").split("\r?\n")) {
                check(line.matches(FIELD), "a field of the answer is malformed");
                String[] field = line.split(":", 2);
                head.merge(field[0].toLowerCase(Locale.ROOT), field[1].strip(), (a, b) -> a + "," + b);
            }
            if (head.get("").matches("101|[2-9]..")) return head;
        }
        throw new ProtocolException("more than 8 interim answers came");
    }

    private static List<String> list(Map<String, String> head, String name) {
        return Stream.of(head.getOrDefault(name, "").split(",")).map(String::strip).filter(m -> !m.isEmpty()).toList();
    }

    private int receive(byte[] b, int off, int len) throws IOException {
        synchronized (input) {
            if (len > 0 && !piece.hasRemaining()) {
                wanted.release();
                ready.acquireUninterruptibly();
            }
            int n = Math.min(len, piece.remaining());
            if (n == 0 && failed != null) throw failed;
            piece.get(b, off, n);
            return n > 0 || len == 0 ? n : -1;
        }
    }

    /** Reads until the transport ends, also behind FINAL_DATA (M43). */
    private void run() {
        try {
            for (int b : MAGIC) check(capsules.readUnsignedByte() == b, "the peer does not send capsules"); // M32
            for (long type = OURS | capsules.readUnsignedByte();; type = integer(true)) capsule(type);
        } catch (IOException e) {
            broken = e.getMessage() != null ? e : new EOFException("the tunnel ended early: the peer or a proxy quit");
            failed = last ? null : broken;
            end(e instanceof ProtocolException ? code : 1000);
        }
        ready.release(1 << 29); // all that the application will ever want
        try (socket) {
            while (wire.read() >= 0); // M47: it is not interpreted
        } catch (IOException e) {
            // The peer has reset the connection, or 2 s have passed.
        }
        over.complete(null);
    }

    private void capsule(long type) throws IOException {
        long length = integer(false);
        int kind = type >> 3 == OURS >> 3 ? (int) type & 7 : -1;
        boolean data = kind == DATA || kind == FINAL_DATA, ping = kind == PING || kind == PONG;
        check(data || ping || begun && length <= 65536, "the first capsule, or a long one, has an unknown type");
        check(ping ? length == 8 : !data || !last, "a PING does not have 8 bytes, or data came behind FINAL_DATA");
        begun = true;
        byte[] value = new byte[ping ? 8 : 0];
        capsules.readFully(value);
        for (int n; data && length > 0; length -= n) {
            byte[] b = new byte[8192];
            if ((n = capsules.read(b, 0, (int) Math.min(length, b.length))) < 0) throw new EOFException();
            wanted.acquireUninterruptibly();
            piece = closing ? piece : ByteBuffer.wrap(b, 0, n);
            ready.release();
        }
        if (!data && !ping) capsules.skipNBytes(length);
        if (kind == PING) answer(2, capsule(PONG, value, 0, 8));
        answered |= kind == PING && last;
        confirmed |= kind == PONG && Arrays.equals(value, lastPing);
        last |= kind == FINAL_DATA;
        if (kind == FINAL_DATA) ready.release(1 << 29);
        if (closing && last && confirmed && answered) end(1000); // M45
    }

    private long integer(boolean shortest) throws IOException {
        int first = capsules.readUnsignedByte(), size = 1 << (first >> 6);
        long value = first & 63;
        for (int i = 1; i < size; i++) value = value << 8 | capsules.readUnsignedByte();
        check(!shortest || size == 1 || value >> 4 * size - 2 > 0, "a type is not in its shortest form");
        return value;
    }

    private int payload(byte[] b, int off, int len) throws IOException {
        while (frame == 0) header();
        int n = wire.read(b, off, (int) Math.min(len, frame));
        frame -= n;
        return n;
    }

    private void header() throws IOException {
        int first = wire.readUnsignedByte(), size = wire.readUnsignedByte(), opcode = first & 15;
        code = opcode == 1 ? 1003 : 1002;
        check((first & 0x70) == 0 && List.of(0, 2, 8, 9, 10).contains(opcode), "a reserved bit or opcode, or a text");
        check(size < 128 && (opcode > 2 ? first > 127 && size < 126 : fragmented == (opcode == 0)), "a wrong frame");
        long length = size < 126 ? size : size == 126 ? wire.readUnsignedShort() : wire.readLong();
        check(size < 126 || length >= (size == 126 ? 126 : 65536), "a length is not in its shortest form");
        frame = opcode > 2 ? 0 : length;
        fragmented = opcode > 2 ? fragmented : first < 128;
        byte[] body = new byte[opcode > 2 ? size : 0];
        wire.readFully(body);
        if (opcode == 9) answer(10, body);
        if (opcode != 8) return;
        int why = size == 0 ? 1000 : size == 1 ? 0 : ByteBuffer.wrap(body).getChar();
        byte[] reason = Arrays.copyOfRange(body, Math.min(size, 2), size);
        check(why > 999 && why < 1004 || why > 1006 && why < 1015 || why > 2999 && why < 5000, "a wrong code");
        check(Arrays.equals(new String(reason, UTF_8).getBytes(UTF_8), reason), "a Close is not in UTF-8");
        answer(8, Arrays.copyOf(body, Math.min(size, 2)));
        throw new EOFException("the peer sent a Close before FINAL_DATA");
    }

    /** Sends the newest answer of its kind, without waiting for it (M39). */
    private void answer(int opcode, byte[] body) {
        if (due.put(opcode, body) == null) TASKS.submit(() -> { flush(); return null; });
    }

    private void flush() throws IOException {
        synchronized (out) {
            for (int opcode : ANSWERS) if (due.containsKey(opcode)) frame(opcode, due.remove(opcode));
            out.flush();
        }
    }

    private static byte[] capsule(int kind, byte[] b, int off, int len) {
        ByteBuffer c = ByteBuffer.allocate(len + 8).putInt(2 << 30 | OURS | kind);
        c = len < 64 ? c.put((byte) len) : len < 16384 ? c.putShort((short) (len | 1 << 14)) : c.putInt(len | 1 << 31);
        return Arrays.copyOf(c.put(b, off, len).array(), c.position());
    }

    private void frame(int opcode, byte[] b) throws IOException {
        if (closed || !ws && opcode != 2) return;
        closed = opcode == 8;
        if (ws) {
            byte[] key = new byte[4], size = {(byte) (b.length >> 8), (byte) b.length};
            RANDOM.nextBytes(key);
            out.write(new byte[] {(byte) (128 | opcode), (byte) (128 | Math.min(b.length, 126))});
            if (b.length > 125) out.write(size);
            out.write(key);
            for (int i = 0; i < b.length; i++) b[i] ^= key[i & 3];
        }
        out.write(b);
    }

    private void send(int kind, byte[] b, int off, int len) throws IOException {
        synchronized (out) {
            if (broken != null) throw new IOException("the tunnel takes no bytes: " + broken.getMessage(), broken);
            frame(2, capsule(kind, b, off, len));
            if (kind == FINAL_DATA) frame(2, capsule(PING, lastPing, 0, 8));
            if (kind == FINAL_DATA) broken = new IOException("this side has ended its direction");
            flush();
        }
    }

    /** Ends this direction. The other one stays open. */
    public void shutdownOutput() throws IOException {
        if (raw) socket.shutdownOutput();
        else send(FINAL_DATA, lastPing, 0, 0);
    }

    /** Ends the transport: this direction with a Close, and both behind 2 s (M45, M47). */
    private void end(int why) {
        CompletableFuture.delayedExecutor(2, TimeUnit.SECONDS).execute(() -> {
            try (socket) { over.complete(null); } catch (IOException e) { } // there is nothing left to do
        });
        due.putIfAbsent(8, new byte[] {(byte) (why >> 8), (byte) why});
        TASKS.submit(() -> { flush(); socket.shutdownOutput(); return null; });
    }

    /** Ends this direction, and waits until the peer has received everything and has ended its own. */
    @Override public void close() throws IOException {
        if (!raw && !closing) {
            closing = true;
            wanted.release(1 << 29); // what still comes is discarded
            TASKS.submit(() -> { shutdownOutput(); return null; });
            if (last && confirmed && answered) end(1000);
            over.completeOnTimeout(null, 60, TimeUnit.SECONDS).join();
        }
        socket.close();
        if (!raw && !confirmed) throw new IOException("the peer has not confirmed that it has received everything", failed);
    }
}
