import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;

/** pgjdbc: prepared, batches, cursors, COPY, errors. Usage: Mixed.java ROUNDS; where to, from the PG* environment. */
public class Mixed {
    public static void main(String[] arguments) throws Exception {
        for (int n = 0; n < Integer.parseInt(arguments[0]); n++) {
            try (Connection connection = connect()) {
                work(connection, n);
            }
        }
    }

    static Connection connect() throws SQLException {
        String host = System.getenv("PGHOST");
        String place = (host.contains(":") ? "[" + host + "]" : host) + ":" + System.getenv("PGPORT");
        Properties with = new Properties();
        with.setProperty("user", System.getenv("PGUSER"));
        with.setProperty("sslmode", System.getenv("PGSSLMODE"));
        with.setProperty("ApplicationName", "pgjdbc");
        return DriverManager.getConnection("jdbc:postgresql://" + place + "/" + System.getenv("PGDATABASE"), with);
    }

    static void work(Connection connection, int n) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.execute("create temporary table t (id int, note text)");
            statement.execute("select 1 as a; select 'two' as b");
        }
        // From the fifth execution on it has a name.
        try (PreparedStatement insert = connection.prepareStatement("insert into t values (?, ?)")) {
            for (int i = 0; i < 10; i++) {
                insert.setInt(1, i);
                insert.setString(2, "nöte " + i);
                insert.executeUpdate();
            }
            for (int i = 0; i < 200; i++) {
                insert.setInt(1, i);
                insert.setString(2, i % 7 == 0 ? null : "batch");
                insert.addBatch();
            }
            insert.executeBatch();
        }
        connection.setAutoCommit(false);
        try (PreparedStatement select = connection.prepareStatement("select g, ? from generate_series(1, ?) g")) {
            select.setFetchSize(40);
            select.setString(1, "row");
            select.setInt(2, 100 + n);
            try (ResultSet rows = select.executeQuery()) {
                while (rows.next()) {}
            }
        }
        connection.rollback();
        connection.setAutoCommit(true);
        connection.unwrap(PGConnection.class).getCopyAPI()
            .copyIn("copy t (id, note) from stdin", new StringReader("1\ta\n2\tb\n3\tc\n"));
        for (String broken : new String[] {"selekt 1", "select 1/0", "select * from does_not_exist"}) {
            try (Statement statement = connection.createStatement()) {
                statement.execute(broken);
                throw new IllegalStateException("the server should have refused: " + broken);
            } catch (SQLException expected) {
                // It is part of the script.
            }
        }
        try (Statement statement = connection.createStatement()) {
            statement.addBatch("update t set note = 'changed' where id = 1");
            statement.addBatch("delete from t where id > 150");
            statement.executeBatch();
        }
    }
}
