import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.ResultSet;
import java.sql.Statement;

/** One pgjdbc connection: a statement for each line of input, a line for its one value. */
public class Lines {
    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
            + System.getenv("PGDATABASE") + "?sslmode=" + System.getenv("PGSSLMODE") + "&user=" + System.getenv("PGUSER");
        try (Connection connection = java.sql.DriverManager.getConnection(url);
                Statement statement = connection.createStatement()) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                try (ResultSet rows = statement.executeQuery(line)) {
                    rows.next();
                    System.out.println(rows.getString(1));
                }
            }
        }
    }
}
