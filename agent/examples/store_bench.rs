//! Measures the store: `store_bench [ROWS] [URL]` prints one JSON line. Without a URL it starts the embedded
//! engine in a directory of its own; the program `weir` is expected beside `examples/`.

use agent::store::{bench, embedded};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rows = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let directory = std::env::temp_dir().join(format!("weir-store-bench-{}", std::process::id()));
    let (url, engine) = if let Some(url) = arguments.next() {
        (url, None)
    } else {
        let program = std::env::current_exe()?.with_file_name("../weir");
        let config = embedded::Config {
            program: Some(program),
            ..embedded::Config::new(directory.join("clickhouse"))
        };
        let engine = embedded::Embedded::start(&config)?;
        (engine.url(), Some(engine))
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(bench::run(&url, rows, directory.join("state")));
    drop(engine);
    let _ = std::fs::remove_dir_all(&directory);
    println!("{}", serde_json::to_string(&report?)?);
    Ok(())
}
