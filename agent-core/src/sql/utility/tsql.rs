//! Statements that only SQL Server has.

use super::Words;
use super::object::relations;
use crate::sql::draft::Draft;
use crate::sql::token::Kind;
use crate::sql::{Access, Effect, feed, scan};

/// Reads a statement that SQL Server has and PostgreSQL lacks, or means differently. False where it is none.
pub(super) fn read(verb: &str, words: &mut Words<'_>, draft: &mut Draft) -> bool {
    draft.operation = verb.to_ascii_uppercase();
    let done = match verb {
        "exec" | "execute" => {
            execute(words, draft);
            true
        }
        "backup" => {
            effects(draft, [Effect::Admin, Effect::CopyOut, Effect::File]);
            true
        }
        "restore" => {
            effects(draft, [Effect::Admin, Effect::CopyIn, Effect::File]);
            true
        }
        "bulk" => {
            draft.operation.push_str(" INSERT");
            effects(draft, [Effect::CopyIn, Effect::File, Effect::Insert]);
            words.eat("insert");
            words.name().map(|name| draft.target(&name, Access::Write)).is_some()
        }
        // What is denied was allowed.
        "deny" => {
            draft.effect(Effect::Revoke);
            words.find("on").is_none_or(|on| {
                words.at = on + 1;
                class_prefix(words);
                words.at >= words.kept.len() || relations(words, draft, Access::Write).is_some()
            })
        }
        "disable" | "enable" => {
            draft.effect(Effect::Alter);
            draft.effect(Effect::Admin);
            words.find("on").is_none_or(|on| {
                words.at = on + 1;
                if !words.any(words.at, &["database", "all"])
                    && let Some(name) = words.name()
                {
                    draft.target(&name, Access::Write);
                }
                true
            })
        }
        "kill" | "shutdown" | "reconfigure" | "dbcc" | "checkpoint" => {
            draft.effect(Effect::Admin);
            true
        }
        "revert" | "use" | "setuser" => {
            draft.effect(Effect::Session);
            true
        }
        // `BEGIN`, `END`, `TRY`: what stands between them is read on its own.
        "begin" | "end" | "break" | "continue" | "go" | "commit" | "rollback" | "save" => true,
        "else" | "goto" | "throw" | "raiserror" | "waitfor" => {
            draft.incomplete = true;
            true
        }
        "if" | "while" | "print" | "return" | "declare" => {
            draft.incomplete = true;
            draft.literal_bound = true;
            scan::functions(words, draft);
            if words.has(&["select"]) {
                draft.absorb(scan::statement(words.dialect, words.text, words.rest(), words.depth + 1));
            }
            draft.operation = verb.to_ascii_uppercase();
            true
        }
        _ => false,
    };
    if !done {
        draft.operation.clear();
    }
    done
}

fn effects(draft: &mut Draft, effects: [Effect; 3]) {
    for effect in effects {
        draft.effect(effect);
    }
}

/// `OBJECT::name` and the like.
fn class_prefix(words: &mut Words<'_>) {
    if words.kept.get(words.at + 1).is_some_and(|k| k.token.of(words.text) == b"::") {
        words.at += 2;
    }
}

/// `EXEC [@r =] procedure arguments`, `EXEC (text)`, `EXECUTE AS user`.
fn execute(words: &mut Words<'_>, draft: &mut Draft) {
    if words.eat("as") {
        draft.operation = "EXECUTE AS".into();
        draft.effect(Effect::Session);
        draft.effect(Effect::Admin);
        return;
    }
    draft.effect(Effect::Execute);
    draft.incomplete = true; // what it runs stands elsewhere
    draft.literal_bound = true;
    if words.kept.get(words.at + 1).is_some_and(|k| k.token.of(words.text) == b"=") {
        words.at += 2;
    }
    let from = words.at;
    if let Some(name) = words.name() {
        draft.mention(&name);
        procedure(&name, draft);
    }
    words.at = from;
    scan::executed(words, draft);
    for kept in words.rest() {
        if matches!(kept.token.kind, Kind::String | Kind::Escaped) {
            let text = feed::value(words.text, kept.token);
            scan::body(words.dialect, text.as_bytes(), draft, words.depth + 1);
        }
    }
}

/// System procedures that act on the host or on rights (Transact-SQL reference, "System stored procedures").
pub(in crate::sql) fn procedure(name: &str, draft: &mut Draft) {
    const RIGHTS: &[&str] = &[
        "sp_configure",
        "sp_addsrvrolemember",
        "sp_addrolemember",
        "sp_droprolemember",
        "sp_dropsrvrolemember",
        "sp_addlogin",
        "sp_droplogin",
        "sp_grantlogin",
        "sp_revokelogin",
        "sp_denylogin",
        "sp_adduser",
        "sp_dropuser",
        "sp_grantdbaccess",
        "sp_password",
        "sp_changedbowner",
        "sp_change_users_login",
        "sp_addlinkedserver",
        "sp_addlinkedsrvlogin",
        "sp_serveroption",
        "sp_setapprole",
        "sp_trace_setstatus",
        "sp_audit_write",
        "sp_addextendedproc",
        "sp_procoption",
        "sp_dboption",
    ];
    const PROGRAMS: &[&str] =
        &["xp_cmdshell", "sp_execute_external_script", "sp_start_job", "sp_add_jobstep", "sp_update_jobstep"];
    let own = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
    if PROGRAMS.contains(&own.as_str()) || own.starts_with("sp_oa") {
        draft.effect(Effect::Program);
    }
    if RIGHTS.contains(&own.as_str()) || own.starts_with("xp_reg") || own.starts_with("xp_instance_reg") {
        draft.effect(Effect::Admin);
    }
    if ["xp_dirtree", "xp_subdirs", "xp_fileexist", "xp_delete_file", "xp_create_subdir"]
        .contains(&own.as_str())
    {
        draft.effect(Effect::File);
    }
    if own == "sp_send_dbmail" {
        draft.effect(Effect::CopyOut);
    }
    if ["sp_rename", "sp_detach_db", "sp_attach_db", "sp_renamedb"].contains(&own.as_str()) {
        draft.effect(Effect::Alter);
    }
    if ["sp_msforeachtable", "sp_msforeachdb"].contains(&own.as_str()) {
        draft.effect(Effect::Admin);
    }
}
