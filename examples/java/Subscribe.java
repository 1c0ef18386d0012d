// A user's feed in Java 17, with nothing but the JDK: its WebSocket, and a few lines of STOMP.
//
//   java Subscribe.java alice demo-alice          (user, passcode)
//
// Environment: STENTOR_WS (default ws://127.0.0.1:15674/ws), STOMP_LOGIN (default: the user).
// On Android the same code works on OkHttp's WebSocket.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.io.ByteArrayOutputStream;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

public class Subscribe implements WebSocket.Listener {
    private final String login;
    private final String passcode;
    private final String destination;
    private volatile boolean subscribed;
    private volatile long heard = System.nanoTime();
    private volatile String wish = ""; // what an ERROR said about coming back, see pause()
    private final CompletableFuture<Void> closed = new CompletableFuture<>();
    private final ByteArrayOutputStream received = new ByteArrayOutputStream();

    Subscribe(String user, String passcode) {
        this.login = Objects.requireNonNullElse(System.getenv("STOMP_LOGIN"), user);
        this.passcode = passcode;
        this.destination = "/exchange/feed/user_" + user;
    }

    public static void main(String[] args) throws Exception {
        String user = args.length > 0 ? args[0] : "alice";
        String passcode = args.length > 1 ? args[1] : "demo-" + user;
        URI url = URI.create(Objects.requireNonNullElse(System.getenv("STENTOR_WS"), "ws://127.0.0.1:15674/ws"));
        HttpClient http = HttpClient.newHttpClient();
        for (int failures = 0;; failures++) {
            Subscribe feed = new Subscribe(user, passcode);
            try {
                WebSocket socket = http.newWebSocketBuilder().subprotocols("v12.stomp")
                    .connectTimeout(Duration.ofSeconds(5)).buildAsync(url, feed)
                    .orTimeout(10, TimeUnit.SECONDS).join();
                feed.waitUntilClosed(socket);
            } catch (CompletionException failure) {
                System.err.println(failure.getCause());
            }
            // An application fetches a new token if it says `renew`, and comes back. There is none here.
            if (feed.wish.equals("no") || feed.wish.equals("renew")) System.exit(1);
            if (feed.subscribed) failures = 0;
            System.err.println("not connected, trying again ...");
            Thread.sleep(pause(feed.wish, failures));
        }
    }

    // The server sends a heart-beat each 5 s. A connection on which nothing comes is lost, even if
    // nobody says so: a network that is gone does not, and Java 17 may miss the end of a socket.
    private void waitUntilClosed(WebSocket socket) {
        while (!closed.isDone()) {
            try {
                closed.copy().orTimeout(5, TimeUnit.SECONDS).join();
            } catch (CompletionException failure) {
                if (closed.isDone()) throw failure;
                if (System.nanoTime() - heard > 12_000_000_000L) {
                    System.err.println("nothing was heard for 12 s");
                    socket.abort();
                    return;
                }
            }
        }
    }

    // Milliseconds until the next attempt. The server says in each ERROR, in the header `reconnect`,
    // whether to come back: `no`; `renew`, which is: only with other credentials; or a time such as `5s`.
    // To that comes a random part, which grows from 1 s to 30 s: it keeps the clients of a server that
    // was restarted from all coming back in one instant.
    private static long pause(String wish, int failures) {
        long wished = wish.matches("\\d{1,9}s") ? 1000 * Long.parseLong(wish.substring(0, wish.length() - 1)) : 0;
        return wished + (long) (Math.random() * Math.min(30_000, 1000 << Math.min(failures, 5)));
    }

    @Override
    public void onOpen(WebSocket socket) {
        // CONNECT is the one frame of a client whose headers are never escaped.
        socket.sendText("CONNECT\naccept-version:1.2\nhost:/\nheart-beat:0,5000\nlogin:" + login
            + "\npasscode:" + passcode + "\n\n\0", true);
        socket.request(1);
    }

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
        received.writeBytes(part.toString().getBytes(StandardCharsets.UTF_8));
        return handleFrames(socket);
    }

    @Override
    public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer part, boolean last) {
        byte[] bytes = new byte[part.remaining()];
        part.get(bytes);
        received.writeBytes(bytes);
        return handleFrames(socket);
    }

    // A WebSocket message is not a frame: it may hold a part of one, or several.
    private CompletionStage<?> handleFrames(WebSocket socket) {
        heard = System.nanoTime();
        byte[] bytes = received.toByteArray();
        int start = 0;
        while (true) {
            while (start < bytes.length && (bytes[start] == '\n' || bytes[start] == '\r')) start++; // heart-beats
            // ISO 8859-1 keeps one character a byte, so that positions count octets.
            int headEnd = new String(bytes, StandardCharsets.ISO_8859_1).indexOf("\n\n", start);
            if (headEnd < 0) break;
            String[] lines = new String(bytes, start, headEnd - start, StandardCharsets.UTF_8).split("\n");
            Map<String, String> headers = new LinkedHashMap<>();
            for (int line = 1; line < lines.length; line++) {
                int colon = lines[line].indexOf(':');
                String value = lines[line].substring(colon + 1);
                headers.putIfAbsent(lines[line].substring(0, colon),
                    lines[0].equals("CONNECTED") ? value : unescape(value));
            }
            int body = headEnd + 2;
            int end = body;
            if (headers.containsKey("content-length")) end += Integer.parseInt(headers.get("content-length"));
            else while (end < bytes.length && bytes[end] != 0) end++;
            if (end >= bytes.length) break;
            handle(socket, lines[0], headers, new String(bytes, body, end - body, StandardCharsets.UTF_8));
            start = end + 1;
        }
        received.reset();
        received.write(bytes, start, bytes.length - start);
        socket.request(1);
        return null;
    }

    private void handle(WebSocket socket, String command, Map<String, String> headers, String body) {
        switch (command) {
            case "CONNECTED" -> socket.sendText("SUBSCRIBE\nid:feed\nack:auto\nreceipt:subscribed\ndestination:"
                + escape(destination) + "\n\n\0", true);
            case "RECEIPT" -> {
                subscribed = true; // from here on, nothing that is published to this user is missed
                System.out.println("subscribed to " + destination);
            }
            case "MESSAGE" -> System.out.println(headers.getOrDefault("x-stomp-user", "backend") + ": " + body);
            case "ERROR" -> {
                System.err.println("ERROR " + headers.get("message") + ": " + body.strip());
                // Only that subscription has ended; others, if there are any, go on.
                if (headers.containsKey("subscription")) break;
                // Else it is the last frame: the server closes behind it, and so do we.
                // A server that gives no advice: before the receipt it was a refusal, which would be repeated.
                wish = headers.getOrDefault("reconnect", subscribed ? "" : "no");
                socket.abort();
                closed.complete(null);
            }
            default -> System.err.println("unexpected " + command);
        }
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int status, String reason) {
        closed.complete(null);
        return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        closed.completeExceptionally(error);
    }

    private static String escape(String text) {
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace(":", "\\c");
    }

    private static String unescape(String text) {
        StringBuilder plain = new StringBuilder();
        for (int at = 0; at < text.length(); at++) {
            char next = text.charAt(at);
            if (next != '\\' || at + 1 == text.length()) {
                plain.append(next);
                continue;
            }
            switch (text.charAt(++at)) {
                case 'n' -> plain.append('\n');
                case 'r' -> plain.append('\r');
                case 'c' -> plain.append(':');
                default -> plain.append(text.charAt(at));
            }
        }
        return plain.toString();
    }
}
