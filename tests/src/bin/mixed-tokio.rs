//! tokio-postgres against the server of the `PG*` environment: prepared, pipelined, COPY, transactions, errors.
//! Over TLS by rustls, or by OpenSSL where that is the second argument. Usage: mixed-tokio ROUNDS [openssl]

use std::env::var;

use anyhow::{Context, Result};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use postgres_openssl::MakeTlsConnector;
use tests::rustls::AnyServer;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

#[tokio::main]
async fn main() -> Result<()> {
    let rounds: u32 = std::env::args().nth(1).context("how many rounds?")?.parse()?;
    for round in 0..rounds {
        let mut config = tokio_postgres::Config::new();
        config.host(var("PGHOST")?).port(var("PGPORT")?.parse()?).user("postgres").dbname("shop");
        config.application_name("tokio-postgres");
        // Three connection types, one for each way: what follows is the same.
        let (mut client, driver) = if std::env::args().nth(2).is_some_and(|library| library == "openssl") {
            config.application_name("tokio-postgres openssl");
            let mut connector = SslConnector::builder(SslMethod::tls())?;
            connector.set_verify(SslVerifyMode::NONE);
            let connector = MakeTlsConnector::new(connector.build());
            let (client, connection) = config.ssl_mode(SslMode::Require).connect(connector).await?;
            (client, tokio::spawn(connection))
        } else if var("PGSSLMODE")? == "disable" {
            let (client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
            (client, tokio::spawn(connection))
        } else {
            let (client, connection) = config.ssl_mode(SslMode::Require).connect(AnyServer::new()?).await?;
            (client, tokio::spawn(connection))
        };
        work(&mut client, round as i32).await?;
        drop(client);
        driver.await??;
    }
    Ok(())
}

async fn work(client: &mut Client, round: i32) -> Result<()> {
    client.batch_execute("create temporary table t (id int, note text); truncate t").await?;
    client.simple_query("select 1 as a; select 'two' as b").await?;
    let insert = client.prepare_typed("insert into t values ($1, $2)", &[Type::INT4, Type::TEXT]).await?;
    for id in 0..20 {
        client.execute(&insert, &[&id, &"nöte"]).await?;
    }
    // Pipelined by being polled together.
    let select = client.prepare("select id, note from t where id = $1").await?;
    let (a, b, c) = (round % 20, 3, 99);
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&a, &b, &c];
    let (pa, pb, pc) = ([params[0]], [params[1]], [params[2]]);
    let (one, two, none) =
        tokio::join!(client.query(&select, &pa), client.query(&select, &pb), client.query(&select, &pc));
    anyhow::ensure!((one?.len(), two?.len(), none?.len()) == (1, 1, 0));
    {
        let transaction = client.transaction().await?;
        let portal = transaction.bind("select generate_series(1, 50)", &[]).await?;
        while !transaction.query_portal(&portal, 20).await?.is_empty() {}
        transaction.rollback().await?;
    }
    let _ = client.query("select 1/0", &[]).await;
    let _ = client.simple_query("select 1; selekt 2").await;
    let _ = client.query("select $1::int4 / 0", &[&1_i32]).await;
    client.query_one("select count(*), $1::text, $2::int8", &[&None::<String>, &i64::MAX]).await?;
    Ok(())
}
