import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Arrays;
import java.util.UUID;

/** pgjdbc behind a relay that masks: text at first, binary and without descriptions once it is prepared by name. */
public class Masked {
    static int checked = 0;

    static void same(Object expected, Object told, String what) {
        if (!expected.equals(told)) {
            throw new IllegalStateException(what + ": " + told);
        }
        checked++;
    }

    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
            + System.getenv("PGDATABASE") + "?sslmode=disable&prepareThreshold=3&user=" + System.getenv("PGUSER");
        try (Connection connection = DriverManager.getConnection(url);
                PreparedStatement statement = connection.prepareStatement("select * from typed where id = ?")) {
            connection.setAutoCommit(false);
            statement.setFetchSize(1);
            for (int round = 0; round < 8; round++) {
                statement.setInt(1, 1);
                try (ResultSet row = statement.executeQuery()) {
                    row.next();
                    same("seen by all", row.getString("plain"), "plain");
                    same("*".repeat(12), row.getString("c_text"), "c_text");
                    same(0, row.getInt("c_int4"), "c_int4");
                    same(0L, row.getLong("c_int8"), "c_int8");
                    same(0.0, row.getDouble("c_float8"), "c_float8");
                    same(0, row.getBigDecimal("c_numeric").compareTo(BigDecimal.ZERO), "c_numeric");
                    same(false, row.getBoolean("c_bool"), "c_bool");
                    same(new UUID(0, 0), row.getObject("c_uuid"), "c_uuid");
                    same(true, Arrays.equals(new byte[6], row.getBytes("c_bytea")), "c_bytea");
                    same(LocalDate.of(2000, 1, 1), row.getObject("c_date", LocalDate.class), "c_date");
                    same(LocalTime.MIDNIGHT, row.getObject("c_time", LocalTime.class), "c_time");
                    same(LocalDateTime.of(2000, 1, 1, 0, 0), row.getObject("c_timestamp", LocalDateTime.class), "c_timestamp");
                    OffsetDateTime first = OffsetDateTime.of(2000, 1, 1, 0, 0, 0, 0, ZoneOffset.UTC);
                    same(first, row.getObject("c_timestamptz", OffsetDateTime.class), "c_timestamptz");
                    same("(0.0,0.0)", row.getObject("c_point").toString(), "c_point");
                    Object[] texts = (Object[]) row.getArray("c_texts").getArray();
                    same(Arrays.asList("******", null, "****"), Arrays.asList(texts), "c_texts");
                    Object[] matrix = (Object[]) row.getArray("c_matrix").getArray();
                    same("[[0, 0], [0, null]]", Arrays.deepToString(matrix), "c_matrix");
                    same(true, row.getObject("c_mood") == null, "c_mood");
                }
            }
        }
        System.out.println("checked " + checked);
    }
}
