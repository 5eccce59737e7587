//! Names of functions and settings -> effects. A name is the whole knowledge: what is not listed reads.
//!
//! PostgreSQL: manual chapters 9.28 (administration functions), 33 (large objects), the contrib modules adminpack,
//! dblink, postgres_fdw, tablefunc, and the extensions that hosts ship (aws_s3, pg_cron).

use super::draft::Draft;
use super::{Dialect, Effect};

/// What the arguments of a function mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments {
    /// Nothing for us.
    Plain,
    /// A setting and its value.
    Setting,
    /// The first argument is a sequence.
    Sequence,
    /// Any of them may be a statement that is run.
    Statement,
}

struct Known {
    name: &'static str,
    effects: &'static [Effect],
    arguments: Arguments,
}

const fn plain(name: &'static str, effects: &'static [Effect]) -> Known {
    Known { name, effects, arguments: Arguments::Plain }
}

const fn runs(name: &'static str, effects: &'static [Effect]) -> Known {
    Known { name, effects, arguments: Arguments::Statement }
}

const ADMIN: &[Effect] = &[Effect::Admin];
const FILE: &[Effect] = &[Effect::File];
const LOCK: &[Effect] = &[Effect::Lock];
const REPLICATE: &[Effect] = &[Effect::Replicate];
const SESSION: &[Effect] = &[Effect::Session];
const REMOTE: &[Effect] = &[Effect::Execute, Effect::CopyOut];

/// Sorted by name; searched by halves.
static FUNCTIONS: &[Known] = &[
    plain("aws_lambda_invoke", &[Effect::Program, Effect::CopyOut]),
    plain("connectby", &[Effect::Execute]),
    runs("crosstab", &[Effect::Execute]),
    runs("cursor_to_xml", &[Effect::Execute]),
    plain("database_to_xml", &[Effect::Execute]),
    plain("database_to_xml_and_xmlschema", &[Effect::Execute]),
    runs("dblink", REMOTE),
    plain("dblink_build_sql_delete", &[]),
    plain("dblink_connect", REMOTE),
    plain("dblink_connect_u", REMOTE),
    runs("dblink_exec", REMOTE),
    runs("dblink_open", REMOTE),
    runs("dblink_send_query", REMOTE),
    plain("invoke", &[]),
    plain("lo_creat", &[Effect::Insert]),
    plain("lo_create", &[Effect::Insert]),
    plain("lo_export", &[Effect::File, Effect::CopyOut]),
    plain("lo_from_bytea", &[Effect::Insert]),
    plain("lo_import", &[Effect::File, Effect::CopyIn]),
    plain("lo_put", &[Effect::Update]),
    plain("lo_truncate", &[Effect::Update]),
    plain("lo_truncate64", &[Effect::Update]),
    plain("lo_unlink", &[Effect::Delete]),
    plain("load_file", FILE),
    plain("lowrite", &[Effect::Update]),
    Known { name: "nextval", effects: &[Effect::Update], arguments: Arguments::Sequence },
    plain("pg_advisory_lock", LOCK),
    plain("pg_advisory_lock_shared", LOCK),
    plain("pg_advisory_unlock", LOCK),
    plain("pg_advisory_unlock_all", LOCK),
    plain("pg_advisory_unlock_shared", LOCK),
    plain("pg_advisory_xact_lock", LOCK),
    plain("pg_advisory_xact_lock_shared", LOCK),
    plain("pg_backup_start", ADMIN),
    plain("pg_backup_stop", ADMIN),
    plain("pg_cancel_backend", ADMIN),
    plain("pg_copy_logical_replication_slot", REPLICATE),
    plain("pg_copy_physical_replication_slot", REPLICATE),
    plain("pg_create_logical_replication_slot", REPLICATE),
    plain("pg_create_physical_replication_slot", REPLICATE),
    plain("pg_create_restore_point", ADMIN),
    plain("pg_drop_replication_slot", REPLICATE),
    plain("pg_file_read", FILE),
    plain("pg_file_rename", FILE),
    plain("pg_file_settings", &[]),
    plain("pg_file_sync", FILE),
    plain("pg_file_unlink", FILE),
    plain("pg_file_write", FILE),
    plain("pg_import_system_collations", ADMIN),
    plain("pg_log_backend_memory_contexts", ADMIN),
    plain("pg_logdir_ls", FILE),
    plain("pg_logical_emit_message", REPLICATE),
    plain("pg_logical_slot_get_binary_changes", REPLICATE),
    plain("pg_logical_slot_get_changes", REPLICATE),
    plain("pg_logical_slot_peek_binary_changes", REPLICATE),
    plain("pg_logical_slot_peek_changes", REPLICATE),
    plain("pg_ls_archive_statusdir", FILE),
    plain("pg_ls_dir", FILE),
    plain("pg_ls_logdir", FILE),
    plain("pg_ls_logicalmapdir", FILE),
    plain("pg_ls_logicalsnapdir", FILE),
    plain("pg_ls_replslotdir", FILE),
    plain("pg_ls_summariesdir", FILE),
    plain("pg_ls_tmpdir", FILE),
    plain("pg_ls_waldir", FILE),
    plain("pg_notify", SESSION),
    plain("pg_promote", ADMIN),
    plain("pg_read_binary_file", FILE),
    plain("pg_read_file", FILE),
    plain("pg_reload_conf", ADMIN),
    plain("pg_replication_origin_advance", REPLICATE),
    plain("pg_replication_origin_create", REPLICATE),
    plain("pg_replication_origin_drop", REPLICATE),
    plain("pg_replication_origin_session_setup", REPLICATE),
    plain("pg_replication_slot_advance", REPLICATE),
    plain("pg_rotate_logfile", ADMIN),
    plain("pg_start_backup", ADMIN),
    plain("pg_stat_file", FILE),
    plain("pg_stat_reset", ADMIN),
    plain("pg_stat_reset_shared", ADMIN),
    plain("pg_stat_reset_single_table_counters", ADMIN),
    plain("pg_stat_statements_reset", ADMIN),
    plain("pg_stop_backup", ADMIN),
    plain("pg_switch_wal", ADMIN),
    plain("pg_switch_xlog", ADMIN),
    plain("pg_terminate_backend", ADMIN),
    plain("pg_try_advisory_lock", LOCK),
    plain("pg_try_advisory_lock_shared", LOCK),
    plain("pg_try_advisory_xact_lock", LOCK),
    plain("pg_try_advisory_xact_lock_shared", LOCK),
    plain("pg_wal_replay_pause", ADMIN),
    plain("pg_wal_replay_resume", ADMIN),
    runs("query_export_to_s3", &[Effect::Execute, Effect::CopyOut]),
    runs("query_to_xml", &[Effect::Execute]),
    runs("query_to_xml_and_xmlschema", &[Effect::Execute]),
    runs("query_to_xmlschema", &[Effect::Execute]),
    runs("schedule", &[]),
    runs("schedule_in_database", &[Effect::Execute]),
    plain("schema_to_xml", &[Effect::Execute]),
    Known { name: "set_config", effects: SESSION, arguments: Arguments::Setting },
    Known { name: "setval", effects: &[Effect::Update], arguments: Arguments::Sequence },
    plain("sys_eval", &[Effect::Program]),
    plain("sys_exec", &[Effect::Program]),
    plain("table_import_from_s3", &[Effect::Insert, Effect::CopyIn]),
    plain("table_to_xml", &[Effect::Execute]),
    runs("ts_rewrite", &[]),
    runs("ts_stat", &[Effect::Execute]),
    plain("xp_cmdshell", &[Effect::Program]),
];

const FETCH: &[Effect] = &[Effect::CopyIn];

/// ClickHouse's table functions that reach out of the server (manual, "Table Functions"). What is inserted into one
/// leaves; that is noted where the insert is read.
static CLICKHOUSE: &[Known] = &[
    plain("file", FILE),
    plain("fileCluster", FILE),
    plain("url", FETCH),
    plain("urlCluster", FETCH),
    plain("s3", FETCH),
    plain("s3Cluster", FETCH),
    plain("gcs", FETCH),
    plain("oss", FETCH),
    plain("cosn", FETCH),
    plain("hdfs", FETCH),
    plain("hdfsCluster", FETCH),
    plain("azureBlobStorage", FETCH),
    plain("azureBlobStorageCluster", FETCH),
    plain("deltaLake", FETCH),
    plain("hudi", FETCH),
    plain("iceberg", FETCH),
    plain("remote", FETCH),
    plain("remoteSecure", FETCH),
    plain("mysql", FETCH),
    plain("postgresql", FETCH),
    plain("mongodb", FETCH),
    plain("redis", FETCH),
    plain("sqlite", FILE),
    plain("jdbc", FETCH),
    plain("odbc", FETCH),
    plain("executable", &[Effect::Program]),
];

/// SQL Server's rowset functions. A remote query may do anything over there.
static TSQL: &[Known] = &[
    runs("openrowset", REMOTE),
    plain("openrowset_bulk", FILE),
    runs("openquery", REMOTE),
    plain("opendatasource", REMOTE),
];

/// True for the name of one of SQL Server's rowset functions.
pub(super) fn is_rowset(name: &sqlparser::ast::ObjectName) -> bool {
    let own = name.0.last().and_then(|part| part.as_ident());
    own.is_some_and(|own| TSQL.iter().any(|known| known.name.eq_ignore_ascii_case(&own.value)))
}

/// The effects of calling a function, by its name without the schema, and what its arguments mean.
pub(super) fn called(name: &str, schema: Option<&str>, dialect: Dialect, draft: &mut Draft) -> Arguments {
    let own: &[Known] = match dialect {
        Dialect::Clickhouse => CLICKHOUSE,
        Dialect::Tsql => TSQL,
        Dialect::Postgresql | Dialect::Mysql | Dialect::Redis | Dialect::Mongodb => &[],
    };
    if let Some(known) = own.iter().find(|known| known.name.eq_ignore_ascii_case(name)) {
        known.effects.iter().for_each(|&effect| draft.effect(effect));
        return known.arguments;
    }
    let qualified = match (schema, name) {
        (Some("aws_lambda"), "invoke") => "aws_lambda_invoke",
        (Some("cron"), "schedule") => "schedule_in_database",
        (_, "schedule" | "invoke") => return Arguments::Plain,
        _ => name,
    };
    let Ok(at) = FUNCTIONS.binary_search_by(|known| known.name.cmp(qualified)) else {
        return Arguments::Plain;
    };
    let Some(known) = FUNCTIONS.get(at) else { return Arguments::Plain };
    known.effects.iter().for_each(|&effect| draft.effect(effect));
    known.arguments
}

/// The effects of changing a setting. Settings that switch off auditing, triggers or row security, or that load
/// code, are `admin` as well.
pub(super) fn set(setting: &str, draft: &mut Draft) {
    draft.effect(Effect::Session);
    let name = setting.to_ascii_lowercase();
    let guards =
        ["pgaudit.", "log_", "auto_explain.", "pg_stat_statements.", "track_", "ssl_", "session_preload"];
    let exact = [
        "allow_system_table_mods",
        "archive_command",
        "default_transaction_read_only",
        "dynamic_library_path",
        "ignore_checksum_failure",
        "ignore_system_indexes",
        "is_superuser",
        "local_preload_libraries",
        "role",
        "row_security",
        "session_authorization",
        "session_replication_role",
        "shared_preload_libraries",
        "zero_damaged_pages",
    ];
    if guards.iter().any(|guard| name.starts_with(guard)) || exact.contains(&name.as_str()) {
        draft.effect(Effect::Admin);
    }
}

/// True for relations of PostgreSQL's catalog: writing them changes privileges or worse.
pub(super) fn is_catalog(relation: &str) -> bool {
    match relation.rsplit_once('.') {
        None => relation.starts_with("pg_"),
        Some((schema, _)) => schema == "pg_catalog" || schema.ends_with(".pg_catalog") || schema == "mysql",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted() {
        assert!(FUNCTIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
