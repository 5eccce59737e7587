//! Mixed statements, some forbidden, by tokio-postgres: prepared, simple, pipelined, in transactions. Over TLS by rustls
//! where the `PG*` environment wants TLS. Usage: guarded-tokio TABLE STATEMENTS SEED [dry]. Prints what came of each; `dry`
//! leaves the forbidden ones out: both runs must print the same.

use std::env::{args, var};

use anyhow::{Context, Result, ensure};
use tests::rustls::AnyServer;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Error, NoTls};

const FORBIDDEN: [&str; 5] = [
    "drop table {t}",
    "truncate {t}",
    "delete from {t}",
    "update {t} set v = 'gone' where true",
    "with gone as (delete from {t} returning *) select count(*) from gone",
];

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let table = args().nth(1).context("which table?")?;
    let count: u64 = args().nth(2).context("how many statements?")?.parse()?;
    let dice = Dice(args().nth(3).context("which seed?")?.parse()?);
    let dry = args().nth(4).is_some();
    let mut config = tokio_postgres::Config::new();
    config.host(var("PGHOST")?).port(var("PGPORT")?.parse()?).user(var("PGUSER")?).dbname(var("PGDATABASE")?);
    if var("PGSSLMODE")? == "disable" {
        let (mut client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
        let driver = tokio::spawn(connection);
        work(&mut client, &table, count, dice, dry).await?;
        drop(client);
        Ok(driver.await??)
    } else {
        let (mut client, connection) = config.ssl_mode(SslMode::Require).connect(AnyServer::new()?).await?;
        let driver = tokio::spawn(connection);
        work(&mut client, &table, count, dice, dry).await?;
        drop(client);
        Ok(driver.await??)
    }
}

async fn work(client: &mut Client, table: &str, count: u64, mut dice: Dice, dry: bool) -> Result<()> {
    // What a Unix socket has to say first is not held: nobody has noticed it yet.
    let first = if var("PGHOST")?.starts_with('/') { "select pg_sleep(1)" } else { "select 1" };
    client.batch_execute(first).await?;
    let insert = client.prepare(&format!("insert into {table} values ($1, $2)")).await?;
    let select = format!("select count(*), coalesce(sum(id), 0) from {table} where id < $1");
    for number in 0..count {
        let (id, way) = (dice.roll(500) as i32, dice.roll(6));
        let which = FORBIDDEN[dice.roll(FORBIDDEN.len() as u64) as usize].replace("{t}", table);
        let forbidden = format!("/* forbidden */ {which}");
        match way {
            0 => println!("{}", client.execute(&insert, &[&id, &format!("v{number}")]).await?),
            1 => {
                let row = client.query_one(&select, &[&id]).await?;
                println!("{} {}", row.get::<_, i64>(0), row.get::<_, i64>(1));
            }
            2 => {
                // Pipelined by being polled together: one is refused, the others are not.
                let refused = async { if dry { None } else { Some(client.execute(&*forbidden, &[]).await) } };
                let (id, text) = (id, "pipelined".to_owned());
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&id, &text];
                let (one, refused, two) = tokio::join!(
                    client.execute(&insert, &parameters),
                    refused,
                    client.query_one(&select, &parameters[..1])
                );
                println!("{} {}", one?, two?.len());
                say(refused.map(|result| result.map(drop)))?;
            }
            3 => {
                let transaction = client.transaction().await?;
                transaction.execute(&insert, &[&id, &"never"]).await?;
                say(if dry { None } else { Some(transaction.batch_execute(&forbidden).await) })?;
                transaction.rollback().await?;
            }
            4 => say(if dry {
                None
            } else {
                let texts = format!("insert into {table} values (1, 'never'); {forbidden}");
                Some(client.batch_execute(&texts).await)
            })?,
            _ => say(if dry { None } else { Some(client.query(&*forbidden, &[]).await.map(drop)) })?,
        }
    }
    let row = client.query_one(&format!("select count(*), max(v) from {table}"), &[]).await?;
    println!("{} {:?}", row.get::<_, i64>(0), row.get::<_, Option<String>>(1));
    Ok(())
}

/// What came of a forbidden one; none where it was left out.
fn say(result: Option<Result<(), Error>>) -> Result<()> {
    let hidden = var("PGSSLMODE")? != "disable";
    let wanted = if hidden { "canceling statement due to user request" } else { "blocked by policy" };
    match result {
        None => {}
        Some(Ok(())) => anyhow::bail!("it was executed"),
        Some(Err(error)) => {
            let said = error.as_db_error().map(ToString::to_string).unwrap_or_default();
            ensure!(said.contains(wanted), "{error}: {said}");
        }
    }
    println!("refused");
    Ok(())
}
