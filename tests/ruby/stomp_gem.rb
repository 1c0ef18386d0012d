# The gem "stomp", over TCP. Orders: connect, subscribe, unsubscribe, send, begin, commit, abort,
# refuse, disconnect: one JSON object a line, with its name as `do`. Events go out likewise.

require 'json'
require 'stomp'

WRITING = Mutex.new
ACKNOWLEDGED = {}
$refuse = 0

def tell(event, details = {})
  WRITING.synchronize { STDOUT.puts({ event: event }.merge(details).to_json) }
  STDOUT.flush
end

def headers_of(order)
  (order['headers'] || {}).transform_keys(&:to_sym)
end

def settle(message)
  headers = message.headers
  return unless ACKNOWLEDGED[headers['subscription']]

  if $refuse.positive?
    $refuse -= 1
    $connection.nack(headers['ack'])
  else
    $connection.ack(headers['ack'])
  end
end

def listen
  while (frame = $connection.receive)
    body = frame.body.to_s.dup.force_encoding('UTF-8')
    case frame.command
    when 'MESSAGE'
      tell('message', destination: frame.headers['destination'], headers: frame.headers, body: body)
      settle(frame)
    when 'RECEIPT'
      tell('receipt', id: frame.headers['receipt-id'])
    when 'ERROR'
      tell('error', headers: frame.headers, body: body)
    end
  end
rescue StandardError
  # The connection has ended.
ensure
  tell('closed')
end

def obey(order)
  destination = order['destination']
  case order['do']
  when 'connect'
    host, port = order['address'].split(':')
    login = { login: order['login'], passcode: order['passcode'], host: host, port: port.to_i }
    versions = { 'accept-version' => '1.2', 'host' => order['host'] }
    $connection = Stomp::Connection.new(hosts: [login], reliable: false, connect_headers: versions)
    headers = $connection.connection_frame.headers
    tell('connected', version: headers['version'], headers: headers)
    Thread.new { listen }
  when 'subscribe'
    headers = headers_of(order)
    name = headers[:id] || destination
    ACKNOWLEDGED[name] = true if headers[:ack] && headers[:ack] != 'auto'
    $connection.subscribe(destination, headers, name)
  when 'unsubscribe'
    $connection.unsubscribe(destination, headers_of(order), destination)
  when 'send'
    $connection.publish(destination, order['body'].to_s, headers_of(order))
  when 'begin', 'commit', 'abort'
    $connection.public_send(order['do'], order['transaction'])
  when 'refuse'
    $refuse += 1
  when 'disconnect'
    begin
      $connection.disconnect
    rescue IOError
      # The server was faster: the listening thread has closed the socket already.
    end
  else
    raise "no such order: #{order['do']}"
  end
end

begin
  STDIN.each_line { |line| obey(JSON.parse(line)) }
rescue StandardError => e
  tell('failed', why: e.full_message)
  exit 1
end
