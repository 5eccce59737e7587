import java.io.StringReader;
import java.io.StringWriter;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Arrays;
import java.util.Properties;
import java.util.Random;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

/**
 * Mixed statements, some forbidden, by pgjdbc: batches among them. Usage: Guarded.java TABLE STATEMENTS SEED [dry]; where
 * to, from the PG* environment. `dry` leaves the forbidden ones out: both runs must print the same.
 */
public class Guarded {
    static final String[] FORBIDDEN = {
        "delete from {t}",
        "update {t} set v = 'gone'",
        "drop table {t}",
        "TRUNCATE ONLY {t}",
        "/* harmless */ DeLeTe /* really */ FROM {t} where true or id = 1",
        "with gone as (delete from {t} returning *) select count(*) from gone",
        "do $$ begin delete from {t}; end $$",
    };
    static String table;
    static boolean dry;

    public static void main(String[] arguments) throws Exception {
        table = arguments[0];
        int count = Integer.parseInt(arguments[1]);
        Random random = new Random(Long.parseLong(arguments[2]));
        dry = arguments.length > 3;
        StringBuilder said = new StringBuilder();
        try (Connection connection = connect()) {
            for (int done = 0; done < count; ) {
                int id = random.nextInt(500);
                switch (random.nextInt(5)) {
                    case 4 -> {
                        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
                        String rows = id + "\tdrop table " + table + ";\n" + id + "\ttwo\n";
                        said.append(copy.copyIn("copy " + table + " from stdin", new StringReader(rows))).append('\n');
                        StringWriter out = new StringWriter();
                        copy.copyOut("copy (select id, v from " + table + " where id = " + id + " order by v limit 1) to stdout", out);
                        said.append(out);
                        done += 2;
                    }
                    case 0 -> {
                        try (PreparedStatement insert =
                                connection.prepareStatement("insert into " + table + " values (?, ?)")) {
                            for (int i = 0; i < 10; i++) {
                                insert.setInt(1, id + i);
                                insert.setString(2, "batch " + i);
                                insert.addBatch();
                            }
                            said.append(Arrays.toString(insert.executeBatch())).append('\n');
                        }
                        done += 10;
                    }
                    case 1 -> {
                        // A batch is one transaction here: nothing of it is done.
                        refused(connection, said, true, id);
                        done += 3;
                    }
                    case 2 -> {
                        refused(connection, said, false, id);
                        done += 1;
                    }
                    default -> {
                        try (PreparedStatement select = connection.prepareStatement(
                                "select id, v from " + table + " where id = ? order by v limit 3")) {
                            select.setInt(1, id);
                            try (ResultSet rows = select.executeQuery()) {
                                while (rows.next()) {
                                    said.append(rows.getInt(1)).append(rows.getString(2)).append('\n');
                                }
                            }
                        }
                        done += 1;
                    }
                }
            }
            try (Statement statement = connection.createStatement();
                    ResultSet rows = statement.executeQuery("select count(*), sum(id) from " + table)) {
                rows.next();
                said.append(rows.getLong(1)).append(' ').append(rows.getLong(2)).append('\n');
            }
        }
        System.out.print(said);
    }

    static void refused(Connection connection, StringBuilder said, boolean batch, int id) throws SQLException {
        if (dry) {
            said.append("refused\n");
            return;
        }
        connection.setAutoCommit(!batch);
        try (Statement statement = connection.createStatement()) {
            if (batch) {
                statement.addBatch("insert into " + table + " values (" + id + ", 'never')");
                statement.addBatch("/* forbidden */ " + FORBIDDEN[id % FORBIDDEN.length].replace("{t}", table));
                statement.addBatch("insert into " + table + " values (" + id + ", 'never')");
                statement.executeBatch();
            } else {
                statement.execute("/* forbidden */ " + FORBIDDEN[id % FORBIDDEN.length].replace("{t}", table));
            }
            said.append("EXECUTED\n");
        } catch (BatchUpdateException error) {
            said.append(isRefused(error) ? "refused\n" : error.getMessage());
        } catch (SQLException error) {
            said.append(isRefused(error) ? "refused\n" : error.getMessage());
        } finally {
            if (batch) {
                connection.rollback();
                connection.setAutoCommit(true);
            }
        }
    }

    /** Over TLS the server itself only knows that the statement is cancelled. */
    static boolean isRefused(SQLException error) {
        boolean hidden = !System.getenv("PGSSLMODE").equals("disable");
        return error.getMessage().contains(hidden ? "canceling statement due to user request" : "blocked by policy");
    }

    static Connection connect() throws SQLException {
        String host = System.getenv("PGHOST");
        String place = (host.contains(":") ? "[" + host + "]" : host) + ":" + System.getenv("PGPORT");
        Properties with = new Properties();
        with.setProperty("user", System.getenv("PGUSER"));
        with.setProperty("sslmode", System.getenv("PGSSLMODE"));
        return DriverManager.getConnection("jdbc:postgresql://" + place + "/" + System.getenv("PGDATABASE"), with);
    }
}
