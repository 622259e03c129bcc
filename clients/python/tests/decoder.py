"""What a server receives from a client. It fails on another form than that of M31 and M53."""

from preflight import FINAL_DATA, OURS, PING, PONG



def number(data, at):
    """The variable-length integer at a place, and the place behind it; None if it is incomplete."""
    end = at + (1 << (data[at] >> 6)) if at < len(data) else at + 1
    if len(data) < end:
        return None
    return int.from_bytes(data[at:end]) & (1 << 8 * (end - at) - 2) - 1, end


class Decoder:
    """Reads the stream of a client, in pieces of any size."""

    def __init__(self, deliver, websocket):
        self.deliver, self.websocket, self.came = deliver, websocket, bytearray()
        self.final = False  # FINAL_DATA has come
        self.ping, self.pong = None, b""  # the value of the newest PING; of the newest PONG
        self.controls = []  # the opcode and the payload of each control frame

    @property
    def closes(self):
        return [payload for opcode, payload in self.controls if opcode == 8]

    def feed(self, data):
        self.came += data
        while self.message() if self.websocket else self.capsule(self.came):
            pass

    def message(self):
        """Takes one frame. Returns whether there was one."""
        if len(self.came) < 2:
            return False
        begin, size, at = self.came[0], self.came[1] & 127, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(self.came[2:at])
        if len(self.came) < at + 4 + size:
            return False
        assert self.came[1] >= 128, "a frame is not masked"
        assert begin in (0x82, 0x88, 0x89, 0x8A), f"the frame begins with {begin:#x}"
        assert not self.closes, "a frame came behind the Close"
        mask = int.from_bytes((self.came[at : at + 4] * (size // 4 + 1))[:size])
        masked = int.from_bytes(self.came[at + 4 : at + 4 + size])
        payload = bytearray((masked ^ mask).to_bytes(size))
        del self.came[: at + 4 + size]
        if begin != 0x82:
            self.controls.append((begin & 15, bytes(payload)))
            return True
        assert self.capsule(payload) and not payload, "a message does not have one capsule"
        return True

    def capsule(self, data):
        """Takes one capsule. Returns whether there was one."""
        kind = number(data, 0)
        length = kind and number(data, kind[1])
        if not length or len(data) < length[1] + length[0]:
            return False
        (kind, at), (size, end) = kind, length
        assert kind in OURS and at == 4, f"the type is {kind:#x}"
        assert size <= 32768 and end - at == (1 if size < 64 else 2 if size < 16384 else 4)
        value = bytes(data[end : end + size])
        del data[: end + size]
        if kind == PING:
            self.ping = value
        elif kind == PONG:
            self.pong = value
        else:
            assert not self.final, "data came behind FINAL_DATA"
            self.deliver(value)
            self.final = kind == FINAL_DATA
        return True
