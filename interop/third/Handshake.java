import static java.nio.charset.StandardCharsets.ISO_8859_1;

import java.io.*;
import java.security.SecureRandom;
import java.util.*;
import java.util.stream.Stream;

/** The request and its answer: sections 2, 4 and 7 of spec/preflight.md. */
final class Handshake {
    /** The reason why there is no tunnel. */
    static final class Failure extends IOException {
        final int status; // the status of the answer; 0: none
        final String code; // the code of the receipt; null: none
        final boolean next; // another carrier may work (M67, M68)

        Failure(int status, String code, boolean next, String text) {
            super("no tunnel: " + text);
            this.status = status;
            this.code = code;
            this.next = next;
        }
    }

    private static final String NAME = "[!#$%&'*+.^_`|~0-9A-Za-z-]+", TEXT = "[\t -~\\x80-\\xff]*";
    private static final String STATUS = "HTTP/1\\.\\d \\d{3}( " + TEXT + ")?";
    private static final String OURS = "(?i)(preflight-|sec-websocket-).*|host|connection|upgrade"
        + "|content-length|transfer-encoding|trailer|expect";
    private static final int HEADS = 8, BYTES = 64 << 10; // the limits of M24

    private final boolean raw, ws, tls;
    private final String carrier, token, other, key; // other: the value of Preflight-Protocol

    /** If tls is set, the request asks for TLS inside the tunnel, after the handshake. */
    Handshake(String carrier, String protocol, boolean tls) {
        if (!List.of("upgrade", "framed", "websocket").contains(carrier))
            throw new IllegalArgumentException("the carrier is not upgrade, framed or websocket");
        raw = carrier.equals("upgrade");
        ws = carrier.equals("websocket");
        this.tls = tls;
        this.carrier = carrier;
        token = ws ? "websocket" : protocol;
        other = ws && !protocol.equals("tcp") ? protocol : null;
        byte[] nonce = new byte[16];
        new SecureRandom().nextBytes(nonce);
        key = Base64.getEncoder().encodeToString(nonce);
    }

    byte[] request(String host, String target, Map<String, String> fields) {
        if (!(host + target + token).matches("[!-~]+"))
            throw new IllegalArgumentException("the host, target or protocol is not visible ASCII");
        Map<String, String> all = new LinkedHashMap<>();
        all.put("Host", host);
        all.put("Connection", "Upgrade");
        all.put("Upgrade", token);
        all.put("Preflight-Carriers", carrier);
        if (!raw) all.put("Preflight-Framing", "capsule");
        if (tls) all.put("Preflight-Tunnel", "tls");
        if (other != null) all.put("Preflight-Protocol", other);
        if (ws) {
            all.put("Sec-WebSocket-Version", "13");
            all.put("Sec-WebSocket-Key", key);
            all.put("Sec-WebSocket-Protocol", "preflight.v1");
        }
        fields.forEach((name, value) -> {
            if (!name.matches(NAME) || name.matches(OURS) || !value.matches(TEXT))
                throw new IllegalArgumentException("a field is malformed or not the application's");
            all.put(name, value);
        });
        StringBuilder text = new StringBuilder("GET " + target + " HTTP/1.1\r\n");
        all.forEach((name, value) -> text.append(name + ": " + value + "\r\n"));
        return (text + "\r\n").getBytes(ISO_8859_1);
    }

    /** Reads the answer up to its empty line, and throws a Failure if there is no tunnel. */
    void accept(InputStream in) throws IOException {
        int budget = BYTES, heads = 0;
        Map<String, String> head;
        do {
            String text = head(in, budget);
            budget -= text.length();
            head = parse(text);
        } while (head.get("").matches("1(?!01)..") && heads++ < HEADS);
        check(head);
    }

    private static String head(InputStream in, int budget) throws IOException {
        StringBuilder text = new StringBuilder();
        for (int line = 0, length = -1; length != 0;) { // length: of the last line, without its end
            int c = in.read();
            if (c < 0 || text.length() == budget)
                throw new Failure(0, null, false, "the answer's head is incomplete or too large");
            if (text.length() < 7 && c != "HTTP/1.".charAt(text.length()))
                throw new Failure(0, null, false, "the answer is not HTTP/1: check the address");
            text.append((char) c);
            if (c != '\n') continue;
            length = text.substring(line).replaceFirst("\r?\n", "").length();
            line = text.length();
        }
        return text.toString();
    }

    /** Returns the fields by their names in lower case. Lines with the same name are joined with a
     *  line feed. The status has the empty name. */
    private static Map<String, String> parse(String text) throws Failure {
        Map<String, String> head = new HashMap<>();
        for (String line : text.split("\r?\n(?![ \t])")) {
            boolean first = head.isEmpty();
            if (!first) line = line.replaceAll("\r?\n[ \t]+", " ");
            if (!line.matches(first ? STATUS : NAME + ":" + TEXT))
                throw new Failure(0, null, false, "the answer's head has a malformed line");
            String[] field = first ? new String[] {"", line.substring(9, 12)} : line.split(":", 2);
            head.merge(field[0].toLowerCase(Locale.ROOT), field[1].strip(), (a, b) -> a + "\n" + b);
        }
        return head;
    }

    private void check(Map<String, String> head) throws Failure {
        int status = Integer.parseInt(head.get(""));
        String code = head.get("preflight-refusal");
        boolean switched = status == 101
            && token.equalsIgnoreCase(String.join(",", list(head.get("upgrade"))));
        if (!switched) {
            boolean next = code == null
                ? status / 100 == 3
                    || List.of(101, 200, 400, 403, 404, 405, 426, 501, 505).contains(status)
                : List.of("no-upgrade", "no-connection", "carrier").contains(code)
                    && List.of(400, 405, 426).contains(status);
            throw new Failure(status, code, next, "the answer is " + status + (code != null
                ? ", the server's code " + code
                : " without a receipt, or has another Upgrade: a proxy or another server sent it"));
        }
        String framing = head.get("preflight-framing");
        boolean framed = Set.copyOf(list(framing)).equals(Set.of("capsule"));
        String wrong = list(head.get("connection")).stream().noneMatch("upgrade"::equalsIgnoreCase)
                ? "Connection"
            : !ws && (raw ? framing != null : !framed) ? "Preflight-Framing"
            : !Objects.equals(head.get("preflight-tunnel"), tls ? "tls" : null) ? "Preflight-Tunnel"
            : !ws ? null
            : !Messages.accept(key).equals(head.get("sec-websocket-accept"))
                ? "Sec-WebSocket-Accept"
            : !"preflight.v1".equals(head.get("sec-websocket-protocol")) ? "Sec-WebSocket-Protocol"
            : !head.getOrDefault("sec-websocket-extensions", "").isEmpty()
                ? "Sec-WebSocket-Extensions"
            : (other == null ? head.containsKey("preflight-protocol")
                : !other.equalsIgnoreCase(head.get("preflight-protocol"))) ? "Preflight-Protocol" : null;
        if (wrong != null) throw new Failure(101, code, false, "the 101 has another " + wrong
            + " than asked for: a proxy has changed it, or the server lacks the carrier");
    }

    private static List<String> list(String value) {
        return value == null ? List.of() : Stream.of(value.split("[,\n]")).map(String::strip)
            .filter(member -> !member.isEmpty()).toList();
    }
}
