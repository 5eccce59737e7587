import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.security.KeyStore;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;

/**
 * Ends the TLS of PostgreSQL clients by Java's own library and passes what they say on, in plain. Usage: Ending.java
 * PORT KEYS.p12 PASSWORD; prints the port that it listens on; ends with its input.
 */
public class Ending {
    public static void main(String[] arguments) throws Exception {
        int database = Integer.parseInt(arguments[0]);
        char[] password = arguments[2].toCharArray();
        KeyStore keys = KeyStore.getInstance("PKCS12");
        try (InputStream file = new FileInputStream(arguments[1])) {
            keys.load(file, password);
        }
        KeyManagerFactory managers = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        managers.init(keys, password);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(managers.getKeyManagers(), null, null);
        ServerSocket listener = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
        System.out.println(listener.getLocalPort());
        daemon(() -> {
            while (true) {
                Socket client = listener.accept();
                daemon(() -> serve(context, client, database));
            }
        });
        while (System.in.read() >= 0) {}
    }

    static void serve(SSLContext context, Socket plain, int database) throws IOException {
        plain.getInputStream().readNBytes(8); // SSLRequest
        plain.getOutputStream().write('S');
        SSLSocket client = (SSLSocket) context.getSocketFactory().createSocket(plain, null, plain.getPort(), true);
        client.setUseClientMode(false);
        Socket server = new Socket("127.0.0.1", database);
        daemon(() -> pass(server.getInputStream(), client.getOutputStream()));
        pass(client.getInputStream(), server.getOutputStream());
        server.shutdownOutput();
    }

    static void pass(InputStream from, OutputStream to) throws IOException {
        byte[] bytes = new byte[1 << 14];
        for (int n = from.read(bytes); n > 0; n = from.read(bytes)) {
            to.write(bytes, 0, n);
            to.flush();
        }
    }

    interface Work {
        void run() throws IOException;
    }

    static void daemon(Work work) {
        Thread thread = new Thread(() -> {
            try {
                work.run();
            } catch (IOException over) {
                // One side is gone: so is what it was for.
            }
        });
        thread.setDaemon(true);
        thread.start();
    }
}
