# Runs the vectors for a client, but for those with TLS inside: ruby vectors.rb FOLDER
# Or sends 1 MiB to a server that sends them back, and ends both directions: ruby vectors.rb ADDRESS CARRIER...
require "digest/sha1"
require "socket"
require_relative "preflight"

Thread.report_on_exception = false
SAMPLE = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
HEADS = {
  "capsules" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n" \
                "Preflight-Framing: capsule\r\n\r\n",
  "websocket" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
                 "Sec-WebSocket-Accept: #{SAMPLE}\r\nSec-WebSocket-Protocol: preflight.v1\r\n\r\n"
}.freeze
FIONREAD = 0x541B
TCP = TCPServer.new("127.0.0.1", 0)

class Failure < StandardError; end

def expect(condition, text) = condition || raise(Failure, text)

def within(seconds, text)
  limit = Process.clock_gettime(Process::CLOCK_MONOTONIC) + seconds
  until (result = yield)
    raise Failure, text if Process.clock_gettime(Process::CLOCK_MONOTONIC) > limit
    Thread.pass
  end
  result
end

# Waits until no other thread has work.
def settle = within(5, "the client does not come to rest") { (Thread.list - [Thread.current]).all?(&:stop?) }

Vector = Struct.new(:keys, :bytes) do
  def self.all(folder)
    %w[response-head capsules websocket].flat_map { |kind| Dir["#{folder}/#{kind}/*.vector"].sort }.filter_map do |path|
      head, bytes = File.binread(path).split("\n\n", 2)
      keys = head.force_encoding("UTF-8").lines(chomp: true).to_h { |line| line.split(/: ?/, 2) }
      new(keys, bytes) unless keys["role"] == "server" || keys["tls"]
    end
  end

  def [](key) = keys[key]
  def carrier
    { "capsules" => "framed", "websocket" => "websocket" }[self["kind"]] || (self["carriers"] || "upgrade")[/\A\w+/]
  end
  def protocol = self["protocols"] || "tcp"

  def cuts # the lists of chunks; nil stands for one byte at a time
    return [[]] if self["chunks"] != "each-byte" || bytes.empty?
    [[], nil, *(1...bytes.bytesize).map { |place| [place] }]
  end

  def chunks(cut, sent) # the bytes may be longer than those of the file, if the key is another
    return sent.each_char.to_a if cut.nil?
    cut.empty? ? [sent] : [sent.byteslice(0, cut[0]), sent.byteslice(cut[0]..)]
  end
end

# What the client has sent behind its request, read as a strict server would
class Sent
  attr_reader :capsules, :pongs, :closes

  def initialize(bytes, websocket)
    @capsules, @pongs, @closes = [], [], []
    websocket ? frames(bytes.dup) : capsules_of(bytes.dup)
  end

  def frames(bytes)
    while bytes.bytesize >= 2
      first, length = bytes.unpack("CC")
      expect(length & 0x80 != 0, "a frame without a mask")
      length &= 0x7F
      header, size = [2, length]
      header, size = [4, bytes.unpack1("@2n")] if length == 126
      header, size = [10, bytes.unpack1("@2Q>")] if length == 127
      return if size.nil? || bytes.bytesize < header + 4 + size
      key = bytes.byteslice(header, 4).bytes
      masked = bytes.byteslice(header + 4, size).bytes
      payload = masked.each_with_index.map { |byte, index| byte ^ key[index % 4] }.pack("C*")
      bytes = bytes.byteslice(header + 4 + size..)
      expect(@closes.empty?, "a frame behind a Close")
      case first
      when 0x82 then expect(!payload.empty? && capsules_of(payload).empty?, "a message that is not one capsule")
      when 0x88 then @closes << payload
      when 0x8A then @pongs << payload
      else raise Failure, "a frame that begins with #{first}"
      end
    end
  end

  def capsules_of(bytes)
    while bytes.bytesize >= 5
      type, first = bytes.unpack("NC")
      header, size = first < 64 ? [5, first] : (first < 128 ? [6, bytes.unpack1("@4n")] : [8, bytes.unpack1("@4N")])
      size &= 0x3FFF if header == 6
      size &= 0x3FFFFFFF if header == 8
      expect([0xAD70F100, 0xAD70F101, 0xAD70F104, 0xAD70F105].include?(type), "a capsule of type #{type.to_s(16)}")
      expect(size <= 32_768, "a long capsule")
      return bytes if bytes.bytesize < header + size
      @capsules << [type, bytes.byteslice(header, size)]
      bytes = bytes.byteslice(header + size..)
    end
    bytes
  end
end

# The client under test, with a thread that reads
class Client
  attr_reader :data, :outcome, :tunnel, :error

  def initialize(socket, vector)
    @data = String.new
    @thread = Thread.new { @outcome = run(socket, vector) }
  end

  def run(socket, vector)
    @tunnel = Preflight.new(socket, host: "edge.example", target: "/path?secret",
                                    carrier: vector.carrier, protocol: vector.protocol)
    while (bytes = @tunnel.read)
      @data << bytes
    end
    "clean"
  rescue StandardError => @error
    known = [IOError, SystemCallError, Preflight::Malformed, Preflight::Refused].any? { |kind| @error.is_a?(kind) }
    return "unexpected #{@error.full_message}" if !known || @error.message.include?("secret")
    return "fail" unless @tunnel
    { EOFError => "truncated", Preflight::Malformed => "malformed" }[@error.class] || "reset"
  end

  def finished? = !@thread.alive?
end

def pair(kind)
  return UNIXSocket.pair unless kind == "reset"
  client = TCPSocket.new("127.0.0.1", TCP.addr[1])
  [client, TCP.accept]
end

def unread?(socket)
  socket.ioctl(FIONREAD, buffer = [0].pack("l"))
  buffer.unpack1("l").positive?
rescue IOError
  false
end

def send_chunk(server, socket, chunk)
  server.write(chunk)
  within(5, "the client does not read") { !unread?(socket) }
end

def run(vector, cut)
  socket, server = pair(vector["transport"])
  client = Client.new(socket, vector)
  request = String.new
  request << server.readpartial(4096) until request.include?("\r\n\r\n")
  expect(request.end_with?("\r\n\r\n") && request.scan("\r\n\r\n").size == 1, "bytes behind the request")
  key = request[/^Sec-WebSocket-Key: (.*)\r$/, 1]
  accept = key ? Digest::SHA1.base64digest("#{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11") : SAMPLE
  head = HEADS[vector["kind"]]
  send_chunk(server, socket, head.sub(SAMPLE, accept)) if head
  begin
    bytes = head ? vector.bytes : vector.bytes.sub(SAMPLE.b, accept.b)
    vector.chunks(cut, bytes).each { |chunk| send_chunk(server, socket, chunk) }
  rescue Errno::EPIPE, Errno::ECONNRESET # the client has closed already
  end
  case vector["transport"]
  when "end" then server.close_write
  when "reset"
    server.setsockopt(:SOCKET, :LINGER, [1, 0].pack("ii"))
    server.close
  end
  check(vector, client, server)
ensure
  server.close
  begin
    client.tunnel&.close
  rescue StandardError
    nil
  end
end

def check(vector, client, server)
  sent = String.new
  receive = lambda do
    sent << server.read_nonblock(65_536)
    nil
  rescue IO::WaitReadable
    nil
  rescue EOFError, IOError, SystemCallError
    :end
  end
  if %w[fall fail].include?(vector["expect"])
    within(5, "no failure") { client.finished? }
    expect(client.outcome == "fail", "a tunnel instead of a failure: #{client.outcome}")
    within(5, "the connection stays open") { receive.call } unless server.closed?
    expect(sent.empty?, "bytes behind the request")
    status = vector.bytes[/(?:\A|\n)HTTP\/1\.\d ((?!1)\d{3})[ \r]/, 1]
    refused = client.error.is_a?(Preflight::Refused) && client.error.status == status.to_i
    return expect(refused || [nil, "000", "001"].include?(status), "another status: #{client.error.inspect}")
  end
  data = [vector["data"].to_s].pack("H*")
  if vector["end"] == "open"
    within(5, "the data does not come: #{client.outcome}") { client.data.bytesize >= data.bytesize && client.tunnel }
    settle
    expect(!client.finished?, "an end: #{client.outcome}")
  else
    within(5, "no end") { client.finished? }
    expect(client.outcome == vector["end"], "another end: #{client.outcome} #{client.error.inspect}")
  end
  same = vector["end"] == "malformed" ? data.start_with?(client.data) : client.data == data
  expect(same, "other data: #{client.data.inspect}")
  websocket = vector.carrier == "websocket"
  seen = -> { receive.call && nil || Sent.new(sent, websocket) }
  pong, ws_pong = [vector["pong"], vector["ws-pong"]].map { |value| value && [value].pack("H*") }
  within(5, "no PONG") { seen.call.capsules.include?([0xAD70F105, pong]) } if pong
  within(5, "no Pong frame") { seen.call.pongs.include?(ws_pong) } if ws_pong
  if vector["after"] == "malformed"
    within(5, "writes do not fail") do
      client.tunnel.write("x")
      nil
    rescue IOError, SystemCallError, Preflight::Malformed
      true
    end
  end
  if vector["close"] || vector["end"] == "malformed"
    within(5, "the client does not end its direction") { receive.call }
    closes = Sent.new(sent, websocket).closes
    code = vector["close"]
    expect(closes == [code == "none" ? "".b : [code.to_i].pack("n")], "another Close: #{closes.inspect}") if code
    expect(Sent.new(sent, websocket).capsules.none? { |type, _| type == 0xAD70F101 }, "FINAL_DATA behind an error")
  end
  return if server.closed? || vector.carrier == "upgrade"
  receive.call
  Sent.new(sent, websocket)
end

def run_vectors(folder)
  vectors = Vector.all(folder)
  runs = failures = 0
  failed = vectors.sum do |vector|
    vector.cuts.count do |cut|
      runs += 1
      run(vector, cut)
      false
    rescue Failure, SystemCallError, IOError => error
      puts "#{vector["id"]}, cut #{cut.inspect}: #{error.message}"
      abort "too many failures" if (failures += 1) > 10
      true
    end
  end
  puts "vectors: #{vectors.size}, runs: #{runs}, failed: #{failed}"
  exit(failed.zero? ? 0 : 1)
end

def exchange(address, carrier)
  host, port = address.split(":")
  tunnel = Preflight.new(TCPSocket.new(host, port), host: address, target: "/", carrier: carrier)
  data = Random.bytes(1 << 20)
  writer = Thread.new do
    tunnel.write(data)
    tunnel.close_write
  end
  back = String.new
  while (bytes = tunnel.read)
    back << bytes
  end
  writer.join
  tunnel.close
  raise Failure, "other bytes came back on #{carrier}" unless back == data
  puts "exchanged on #{carrier}"
end

address, *carriers = ARGV
carriers.each { |carrier| exchange(address, carrier) }
run_vectors(address) if carriers.empty?
