// node-postgres: simple, extended, named, queued together, errors. Usage: mixed_pg.js ROUNDS; where to, from PG*.

const { Client } = require("pg");

async function refused(client, ...query) {
  try {
    await client.query(...query);
  } catch (error) {
    if (!error.code) throw error; // not the server's word
    return;
  }
  throw new Error("the server should have refused: " + query[0]);
}

async function round(n) {
  const ssl = process.env.PGSSLMODE === "disable" ? false : { rejectUnauthorized: false };
  const client = new Client({ ssl, application_name: "node-postgres" });
  await client.connect();
  await client.query("select 1 as a; select 'two' as b");
  await client.query("create temporary table t (id int, note text)");
  for (let i = 0; i < 20; i++) {
    await client.query("insert into t values ($1, $2)", [i, "nöte " + i]);
    await client.query({ name: "by id", text: "select id, note from t where id = $1", values: [i] });
  }
  await Promise.all([...Array(30).keys()].map((i) => client.query("select $1::int + 1", [i])));
  await client.query("select $1::text, $2::text", [null, ""]);
  await client.query("select * from generate_series(1, 5000)");
  await client.query("select length($1)", ["x".repeat(50000)]);
  for (const broken of ["selekt 1", "select 1/0", "select 1; select 1/0; select 3"]) await refused(client, broken);
  await refused(client, "select 1 / $1::int", [0]);
  await client.query("begin");
  await client.query("update t set note = $1 where id < $2", ["changed", 10 + (n % 5)]);
  await client.query("rollback");
  await client.end();
}

async function main() {
  for (let n = 0; n < Number(process.argv[2]); n++) await round(n);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
