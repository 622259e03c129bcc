# A client of preflight 1.0. Its errors: EOFError (truncated), SystemCallError (reset), Malformed and Refused.
require "digest/sha1"
require "socket"
class Preflight
  Malformed, Refused = Class.new(StandardError), Class.new(StandardError) { attr_accessor :status, :code }
  TOKEN, TEXT = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/, /[^\x00-\x08\x0A-\x1F\x7F]/n
  FIELD = /(#{TOKEN}):((?:#{TEXT}|\r?\n[ \t])*)\r?\n/n
  HEAD = /\AHTTP\/1\.\d ([1-9]\d\d)(?: #{TEXT}*)?\r?\n((?:#{FIELD})*)\r?\n\z/n
  DATA, FINAL_DATA, PING, PONG = ["\x00", "\x01", "\x04", "\x05"].map { |last| "\xAD\x70\xF1#{last}".b }
  LENGTHS = Hash.new(0..65_536).update(DATA => 0.., FINAL_DATA => 0.., PING => 8..8, PONG => 8..8)
  VARINT = /\A(?:[\x00-\x3F]|[\x40-\x7F].|[\x80-\xBF].{3}|[\xC0-\xFF].{7})\z/mn
  FRAME = /\A.(?:[\x00-\x7D\x80-\xFD]|[\x7E\xFE]..|[\x7F\xFF].{8})\z/mn # the header of a frame, valid or not
  SHORTEST = /\A(?:.[\x00-\x7D]|[^\x88-\x8A](?:\x7E(?!\x00[\x00-\x7D])|\x7F(?!\x00{6})[\x00-\x7F]))/mn # without a mask
  FIRST_BYTES = { true => [0x00, 0x80, 0x88, 0x89, 0x8A], false => [0x02, 0x82, 0x88, 0x89, 0x8A] } # inside a message?
  CLOSE_CODES = ["", *[*1000..1003, *1007..1014, *3000..4999].map { |code| [code].pack("n") }] # none is right, too

  def initialize(transport, host:, target:, carrier:, protocol: "tcp") # transport: a connected socket
    valid = [host, target].all?(/\A[!-~]+\z/) && %r{\A(?!websocket\z)#{TOKEN}(/#{TOKEN})?\z}i.match?(protocol)
    raise ArgumentError, "an argument is not valid" unless valid && %w[upgrade framed websocket].include?(carrier)
    @transport, @carrier, @websocket, key = transport, carrier, carrier == "websocket", [Random.urandom(16)].pack("m0")
    @token, @named = @websocket ? ["websocket", [protocol.downcase] - ["tcp"]] : [protocol.downcase, []]
    lines = ["GET #{target} HTTP/1.1", "Host: #{host}", "Connection: Upgrade", "Upgrade: #{@token}",
             "Preflight-Carriers: #{carrier}", *("Preflight-Framing: capsule" unless carrier == "upgrade")]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: preflight.v1", "Sec-WebSocket-Key: #{key}",
              *@named.map { |name| "Preflight-Protocol: #{name}" }] if @websocket
    transport.write(lines.join("\r\n"), "\r\n\r\n")
    check_answer(Digest::SHA1.base64digest("#{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
    return @application = transport if carrier == "upgrade"
    (@application, @inner), (@source, @payload) = UNIXSocket.pair, IO.pipe
    @sending, @pongs, @asked, @ping, @inside = Mutex.new, {}, Queue.new, Random.urandom(8), false
    @sender, @unpacker, @receiver = %i[send_data receive_payload receive].map { |task| Thread.new { send(task) } }
    Thread.new { transmit(@pongs.values.join) while @asked.pop }
  rescue StandardError
    transport.close
    raise
  end

  def write(bytes) = @application.write(bytes)
  def close_write = @application.close_write
  def read(max = 16_384) # returns some bytes, or nil at the clean end
    return @application.readpartial(max) unless @application.eof?
    raise @error if @error && !@final
  end
  def close # discards what comes; raises an error unless the peer has confirmed that everything has arrived
    return @application.close if @carrier == "upgrade"
    @application.close_write
    @given_up = Thread.new { @sender.join && transmit(capsule(PING, @ping)) } # whose PONG wakes the receiver up
    Thread.new { IO.copy_stream(@application, File::NULL) && @application.close }
    @receiver.join(60) || @transport.shutdown
    @receiver.join
    raise @error || EOFError.new("the peer has not confirmed the end") unless @confirmed
  end
  private
  def check(condition, text) = condition || raise(Malformed, text)
  def exactly(io, size) = read_until(io, /\A.{#{size}}\z/mn)
  def number(varint) = varint.unpack1("H*").hex & (1 << (8 * varint.size - 2)) - 1
  def answer(kind, pong) = @asked.clear << @pongs.store(kind, pong)
  def read_until(io, pattern, prefix = "", limit = 125) # the shortest bytes that match and begin with the prefix
    bytes = String.new
    until pattern.match?(bytes)
      bytes << io.readbyte
      check(prefix.start_with?(bytes[0, prefix.size]) && bytes.size <= limit, "other bytes were to follow")
    end
    bytes
  end

  def check_answer(accept)
    heads = Array.new(9).lazy.map { HEAD.match(read_until(@transport, /\n\r?\n\z/, "HTTP/1.", 65_536)) }
    head = check(heads.find { |match| !match || !match[1].match?(/\A1(?!01)/) }, "a malformed head, or too many heads")
    field = ->(name) { head[2].scan(FIELD).filter_map { |other, value| value.strip if other.casecmp?(name) } }
    list = ->(name) { field[name].flat_map { |value| value.split(",") }.map(&:strip) - [""] }
    status, code = head[1].to_i, field["Preflight-Refusal"].join(",")
    raise Refused.new("refused: #{status} #{code}").tap { |it| it.status, it.code = status, code } if status != 101
    check(list["Upgrade"].join(",").casecmp?(@token) && list["Connection"].any?(/\Aupgrade\z/i), "not upgraded")
    fits = { "upgrade" => field["Preflight-Framing"].empty?, "framed" => list["Preflight-Framing"].uniq == ["capsule"] }
    check(fits.fetch(@carrier, true) && field["Preflight-Tunnel"].empty?, "another framing, or TLS inside")
    websocket = %w[Accept Protocol Extensions].map { |name| field["Sec-WebSocket-#{name}"].join(",") }
    confirmed = websocket == [accept, "preflight.v1", ""] && field["Preflight-Protocol"].map(&:downcase) == @named
    check(!@websocket || confirmed, "another key or protocol, or an extension")
  end

  def send_data
    transmit(capsule(DATA, @inner.readpartial(16_383))) until @inner.eof?
    transmit(capsule(FINAL_DATA, "") + capsule(PING, @ping)) unless @error
  end
  def transmit(bytes)
    @sending.synchronize { @transport.write(bytes).tap { yield if block_given? } }
  rescue IOError, SystemCallError => error
    @error ||= error
  end
  def capsule(kind, value)
    bytes = kind + (value.size < 64 ? [value.size].pack("C") : [0x4000 | value.size].pack("n")) + value
    @websocket ? frame(2, bytes) : bytes
  end
  def frame(opcode, payload)
    size, key = payload.size, Random.urandom(4).unpack1("N")
    header = size < 126 ? [0x80 | opcode, 0x80 | size, key].pack("CCN") : [0x80 | opcode, 0xFE, size, key].pack("CCnN")
    header + (payload + "\0\0\0").unpack("N*").map! { |word| word ^ key }.pack("N*")[0, size]
  end

  def receive # takes the capsules out of the source, then ends the transport
    prefix = DATA[0, 3] # of the first
    until @confirmed && @given_up
      kind = read_until(@source, VARINT, prefix)
      shortest = kind.size == 1 || number(kind) >= 1 << (4 * kind.size - 2)
      check(shortest && (prefix.empty? || LENGTHS.key?(kind)), "a type in a longer form, or an unknown one first")
      prefix, length, data = "", number(read_until(@source, VARINT)), [DATA, FINAL_DATA].include?(kind)
      check(LENGTHS[kind].cover?(length) && !(data && @final), "a capsule of a wrong length, or behind FINAL_DATA")
      case kind
      when PING then answer(PING, capsule(PONG, exactly(@source, 8)))
      when PONG then @confirmed ||= exactly(@source, 8) == @ping
      else @final |= IO.copy_stream(@source, data ? @inner : File::NULL, length) == length && kind == FINAL_DATA
      end
      @inner.close_write if @final
    end
  rescue IOError, SystemCallError, Malformed => error
    @error ||= error
  ensure
    @inner.shutdown
    @source.close
    @close ||= [@error.is_a?(Malformed) ? 1002 : 1000].pack("n")
    last = @pongs.values.join + (@websocket ? frame(8, @close) : "")
    closing = Thread.new { transmit(last) { @transport.shutdown(:WR) } }
    (closing.join(2) && @unpacker.join(2)) || @transport.shutdown
    [@unpacker, @sender].each(&:join)
    [@transport, @inner, @asked].each(&:close)
  end

  def receive_payload # takes the payload out of the transport; behind an error, reads on without interpreting
    IO.copy_stream(@transport, @payload) unless @websocket
    while @websocket && !@close
      header = read_until(@transport, FRAME)
      first, length = header.ord, header[header.size == 2 ? 1 : 2..].unpack1("H*").hex
      @close = [1003].pack("n") if [0x01, 0x81].include?(first) # a text message
      check(FIRST_BYTES[@inside].include?(first) && SHORTEST.match?(header), "a frame that is not allowed")
      @inside = first < 0x80 if first < 0x88
      next IO.copy_stream(@transport, @payload, length) if first < 0x88
      body = exactly(@transport, length)
      answer(:frame, frame(10, body)) if first == 0x89
      next unless first == 0x88
      valid = CLOSE_CODES.include?(body[0, 2]) && "#{body[2..]}".force_encoding("UTF-8").valid_encoding?
      @close = body[0, 2] if check(valid, "a Close that is not allowed")
    end
  rescue IOError, SystemCallError, Malformed => error
    @error ||= error
  ensure
    @payload.close
    IO.copy_stream(@transport, File::NULL) rescue nil # in any way that the transport ends
  end
end
