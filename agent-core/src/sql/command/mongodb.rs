//! Commands of MongoDB -> what they do: the command's document as it travels (`{"delete": "orders", "deletes": [...]}`),
//! or a call as the shell has it (`db.orders.deleteMany({})`), which is brought into that form first.

use std::ops::Range;

use super::value::{Reader, Value};
use super::{Command, Reading};
use crate::sql::{Access, Effect};

use Effect::{
    Admin, Alter, CopyIn, CopyOut, Create, Delete, Drop, Execute, File, Grant, Insert, Read, Replicate,
    Revoke, Session, Truncate, Update,
};

/// Commands by what they do; <https://www.mongodb.com/docs/manual/reference/command/>. Those with documents that matter
/// have functions of their own.
const COMMANDS: &[(&str, &[Effect])] = &[
    (
        "find count distinct getMore geoSearch listCollections listIndexes dbStats collStats dataSize dbHash validate \
      listDatabases explain serverStatus hostInfo top connPoolStats getParameter getCmdLineOpts currentOp \
      rolesInfo usersInfo replSetGetStatus listShards isdbgrid",
        &[Read],
    ),
    ("insert", &[Insert]),
    ("delete", &[Delete]),
    ("update", &[Update]),
    ("aggregate", &[Read]),
    ("drop dropDatabase", &[Drop]),
    ("dropIndexes deleteIndexes", &[Alter, Drop]),
    ("create createIndexes createSearchIndexes", &[Create]),
    ("collMod renameCollection shardCollection reshardCollection refineCollectionShardKey", &[Alter]),
    ("convertToCapped cloneCollectionAsCapped", &[Alter, Delete]),
    ("emptycapped", &[Truncate]),
    ("createUser createRole", &[Admin, Create]),
    ("updateUser updateRole", &[Admin, Alter]),
    ("dropUser dropRole dropAllUsersFromDatabase dropAllRolesFromDatabase", &[Admin, Drop]),
    ("grantRolesToUser grantRolesToRole grantPrivilegesToRole", &[Grant]),
    ("revokeRolesFromUser revokeRolesFromRole revokePrivilegesFromRole", &[Revoke]),
    ("eval $eval", &[Execute]),
    ("mapReduce mapreduce", &[Read, Execute]),
    ("applyOps", &[Admin]),
    ("cloneCollection clone copydb", &[CopyIn]),
    (
        "shutdown setParameter fsync fsyncUnlock compact reIndex profile killOp killCursors killAllSessions \
      killAllSessionsByPattern killSessions setFeatureCompatibilityVersion setDefaultRWConcern \
      setClusterParameter replSetInitiate replSetReconfig replSetStepDown replSetFreeze replSetMaintenance \
      replSetSyncFrom replSetAbortPrimaryCatchUp addShard removeShard enableSharding moveChunk movePrimary split \
      mergeChunks balancerStart balancerStop invalidateUserCache planCacheClear rotateCertificates connectionStatus",
        &[Admin],
    ),
    ("logRotate getLog", &[Admin, File]),
    ("replSetUpdatePosition replSetHeartbeat oplog", &[Replicate]),
    (
        "hello isMaster ismaster ping buildInfo buildinfo saslStart saslContinue authenticate logout getnonce \
      startSession endSessions refreshSessions commitTransaction abortTransaction whatsmyuri getLastError",
        &[Session],
    ),
];

/// Commands in which a password or a key may stand.
const SECRET: &str = "createUser updateUser saslStart saslContinue authenticate copydb";

pub(super) fn read(text: &[u8]) -> Vec<(Range<usize>, Command)> {
    let mut commands = Vec::new();
    let mut reader = Reader::new(text);
    loop {
        reader.space();
        while reader.take(b';') {
            reader.space();
        }
        let start = reader.at;
        if reader.peek().is_none() {
            return commands;
        }
        let document = if reader.peek() == Some(b'{') { reader.value() } else { call(&mut reader) };
        let next = reader.at;
        reader.space();
        // Behind a command comes nothing, or another one.
        let ends = reader.peek().is_none_or(|byte| byte == b';' || text[next..reader.at].contains(&b'\n'));
        if let (Some(document), true) = (document, ends) {
            commands.push((start..next, command(&document)));
        } else {
            commands.push((start..text.len(), not_understood(&text[start..])));
            return commands;
        }
    }
}

/// Names every effect whose command stands in a text that is not understood, and says that it is not complete.
fn not_understood(text: &[u8]) -> Command {
    let mut reading = Reading::default();
    reading.draft.incomplete = true;
    reading.secret = true;
    let text = String::from_utf8_lossy(text);
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$')) {
        let method = METHODS.iter().find(|(name, ..)| *name == word).map(|(_, command, _)| *command);
        for &effect in effects_of(method.unwrap_or(word)) {
            reading.draft.effect(effect);
        }
        if word == "$out" || word == "$merge" {
            reading.draft.effect(CopyOut);
        }
    }
    reading.draft.operation = "?".into();
    reading.end("?")
}

fn effects_of(name: &str) -> &'static [Effect] {
    let known = COMMANDS.iter().find(|(names, _)| names.split_ascii_whitespace().any(|n| n == name));
    known.map_or(&[], |(_, effects)| effects)
}

fn command(document: &Value) -> Command {
    let mut reading = Reading::default();
    if let Some((name, _)) = document.members().first() {
        name.clone_into(&mut reading.draft.operation);
    }
    understand(document, &mut reading);
    let mut redacted = String::new();
    show(document, &mut redacted, 0);
    reading.end(&redacted)
}

fn understand(document: &Value, reading: &mut Reading) {
    let Some((name, target)) = document.members().first() else {
        reading.draft.incomplete = true;
        return;
    };
    let known = COMMANDS.iter().find(|(names, _)| names.split_ascii_whitespace().any(|n| n == name));
    reading.secret |= SECRET.split(' ').any(|secret| secret == name);
    let database = document.get("$db").and_then(Value::text).unwrap_or_default();
    let collection = target.text().unwrap_or_default();
    let owner = if database.is_empty() || collection.is_empty() {
        collection.to_owned()
    } else {
        format!("{database}.{collection}")
    };
    if let Some((_, effects)) = known {
        effects.iter().for_each(|&effect| reading.draft.effect(effect));
    }
    let get = |key: &str| document.get(key);
    let each = |key: &str| get(key).map(Value::items).unwrap_or_default();
    match &**name {
        "delete" => {
            reading.draft.target(&owner, Access::Write);
            for one in each("deletes") {
                let all = !one.get("limit").is_some_and(Value::is_true);
                condition(one.get("q"), all, &owner, reading);
            }
            reading.draft.incomplete |= get("deletes").is_none();
        }
        "update" => {
            reading.draft.target(&owner, Access::Write);
            for one in each("updates") {
                let all = one.get("multi").is_some_and(Value::is_true);
                condition(one.get("q"), all, &owner, reading);
                changes(one.get("u"), &owner, reading);
                if one.get("upsert").is_some_and(Value::is_true) {
                    reading.draft.effect(Insert);
                }
            }
            reading.draft.incomplete |= get("updates").is_none();
        }
        "findAndModify" | "findandmodify" => {
            reading.draft.effect(Read);
            let removes = get("remove").is_some_and(Value::is_true);
            reading.draft.effect(if removes { Delete } else { Update });
            if get("upsert").is_some_and(Value::is_true) {
                reading.draft.effect(Insert);
            }
            reading.draft.target(&owner, Access::Write);
            condition(get("query"), false, &owner, reading);
            changes(get("update"), &owner, reading);
        }
        "insert" => {
            reading.draft.target(&owner, Access::Write);
            for document in each("documents") {
                fields(document, &owner, "", reading);
            }
        }
        "find" | "count" | "distinct" | "getMore" => {
            let relation =
                if name == "getMore" { get("collection").and_then(Value::text) } else { Some(collection) };
            let relation = relation.unwrap_or_default();
            let qualified =
                if database.is_empty() { relation.to_owned() } else { format!("{database}.{relation}") };
            reading.draft.target(&qualified, Access::Read);
            for part in ["filter", "query", "projection", "sort"] {
                condition(get(part), false, &owner, reading);
            }
            if let Some(key) = get("key").and_then(Value::text) {
                reading.field(&owner, key);
            }
        }
        "aggregate" => {
            reading.draft.target(&owner, Access::Read);
            stages(each("pipeline"), &owner, reading);
            reading.draft.incomplete |= get("pipeline").is_none();
        }
        "mapReduce" | "mapreduce" => {
            reading.draft.incomplete = true;
            reading.draft.target(&owner, Access::Read);
            let out = get("out");
            let to = out.and_then(Value::text).or_else(|| out?.members().first()?.1.text());
            if let Some(to) = to {
                reading.draft.effect(Insert);
                reading.draft.relation(to, Access::Write);
            }
        }
        "explain" => {
            // It runs nothing that changes anything; what it would do is read.
            let mut inner = Reading::default();
            understand(target, &mut inner);
            for relation in inner.draft.relations {
                reading.draft.target(&relation.name, Access::Read);
            }
            reading.draft.incomplete |= inner.draft.incomplete;
        }
        "applyOps" => target.items().iter().for_each(|operation| apply(operation, reading)),
        "bulkWrite" => bulk(document, reading),
        "eval" | "$eval" => reading.draft.incomplete = true,
        "renameCollection" => {
            for key in ["renameCollection", "to"] {
                reading.draft.target(get(key).and_then(Value::text).unwrap_or_default(), Access::Write);
            }
            if get("dropTarget").is_some_and(Value::is_true) {
                reading.draft.effect(Drop);
            }
        }
        _ if known.is_none() => reading.draft.incomplete = true,
        _ => {
            let reads = reading.draft.effects.has(Read);
            // `dropDatabase: 1` names no collection; a user's name is none.
            let is_user = name.contains("User") || name.contains("Role");
            if !is_user && !reading.draft.effects.has(Session) && !reading.draft.effects.has(Admin) {
                reading.draft.target(&owner, if reads { Access::Read } else { Access::Write });
            }
        }
    }
}

/// Notes a condition's fields, and whether a write of all that it lets through is bounded by it.
fn condition(filter: Option<&Value>, all: bool, owner: &str, reading: &mut Reading) {
    if all && filter.is_none_or(is_always_true) {
        reading.draft.unbounded = true;
    }
    if let Some(filter) = filter {
        if runs_code(filter) {
            reading.draft.effect(Execute);
        }
        fields(filter, owner, "", reading);
    }
}

/// True where no document is kept out, whatever it holds.
fn is_always_true(filter: &Value) -> bool {
    let exists = |value: &Value| match value.members() {
        [(operator, argument)] => match operator.as_str() {
            "$exists" => argument.is_true(),
            "$ne" => *argument == Value::Null,
            "$nin" => argument.items().is_empty(),
            _ => false,
        },
        _ => false,
    };
    match filter {
        Value::Object(members) => members.iter().all(|(name, value)| match name.as_str() {
            "$and" => value.items().iter().all(is_always_true),
            "$or" => value.items().iter().any(is_always_true),
            "$comment" => true,
            "$expr" => matches!(value, Value::Bool(true) | Value::Number(_)) && value.is_true(),
            // Every document has one.
            "_id" => exists(value),
            _ => {
                matches!(value.members(), [(operator, list)] if operator == "$nin" && list.items().is_empty())
            }
        }),
        Value::Null => true,
        _ => false,
    }
}

/// True where JavaScript stands in it.
fn runs_code(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(name, value)| {
            matches!(name.as_str(), "$where" | "$function" | "$accumulator") || runs_code(value)
        }),
        Value::List(items) => items.iter().any(runs_code),
        _ => false,
    }
}

/// Notes names of fields, and what values tell.
fn fields(value: &Value, owner: &str, path: &str, reading: &mut Reading) {
    match value {
        Value::Object(members) => {
            for (name, inner) in members {
                if name.starts_with('$') {
                    fields(inner, owner, path, reading);
                    continue;
                }
                let last = name.rsplit('.').next().unwrap_or(name);
                reading.field(owner, last);
                fields(inner, owner, name, reading);
            }
        }
        Value::List(items) => items.iter().for_each(|item| fields(item, owner, path, reading)),
        Value::Text(text) => {
            let column = if path.is_empty() { String::new() } else { format!("{owner}.{path}") };
            reading.value(&column, text);
        }
        Value::Number(number) if number.abs() >= 1e11 => reading.value(path, &format!("{number:.0}")),
        _ => {}
    }
}

/// What an update changes: operators, a whole document, or a pipeline.
fn changes(update: Option<&Value>, owner: &str, reading: &mut Reading) {
    match update {
        Some(Value::List(pipeline)) => stages(pipeline, owner, reading),
        Some(update) => fields(update, owner, "", reading),
        None => {}
    }
}

fn stages(pipeline: &[Value], owner: &str, reading: &mut Reading) {
    for stage in pipeline {
        let Some((name, value)) = stage.members().first() else {
            reading.draft.incomplete = true;
            continue;
        };
        let named = |key: &str| value.text().or_else(|| value.get(key)?.text());
        let inner = value.get("pipeline").map(Value::items).unwrap_or_default();
        match name.as_str() {
            "$out" | "$merge" => {
                reading.draft.effect(CopyOut);
                reading.draft.effect(Insert);
                if name == "$merge" {
                    reading.draft.effect(Update);
                }
                let into = value.get("into").unwrap_or(value);
                let collection = into.text().or_else(|| into.get("coll")?.text());
                let database = into.get("db").and_then(Value::text);
                match (database, collection) {
                    (Some(db), Some(coll)) => reading.draft.target(&format!("{db}.{coll}"), Access::Write),
                    (None, Some(coll)) => reading.draft.target(coll, Access::Write),
                    _ => reading.draft.incomplete = true,
                }
            }
            "$lookup" | "$graphLookup" => {
                reading.draft.relation(named("from").unwrap_or_default(), Access::Read);
                stages(inner, owner, reading);
            }
            "$unionWith" => {
                reading.draft.relation(named("coll").unwrap_or_default(), Access::Read);
                stages(inner, owner, reading);
            }
            "$facet" => value.members().iter().for_each(|(_, stage)| stages(stage.items(), owner, reading)),
            "$currentOp" | "$listSessions" | "$listLocalSessions" => reading.draft.effect(Admin),
            _ => condition(Some(value), false, owner, reading),
        }
        if runs_code(value) {
            reading.draft.effect(Execute);
        }
    }
}

/// One entry of the operation log, as `applyOps` takes it.
fn apply(operation: &Value, reading: &mut Reading) {
    let relation = operation.get("ns").and_then(Value::text).unwrap_or_default();
    let object = operation.get("o");
    let effect = match operation.get("op").and_then(Value::text) {
        Some("i") => Insert,
        Some("u") => Update,
        Some("d") => Delete,
        Some("n") => return,
        Some("c") => {
            let mut inner = Reading::default();
            understand(object.unwrap_or(&Value::Null), &mut inner);
            reading.draft.absorb(inner.draft);
            return;
        }
        _ => {
            reading.draft.incomplete = true;
            return;
        }
    };
    reading.draft.effect(effect);
    reading.draft.target(relation, Access::Write);
    if let Some(object) = object {
        fields(object, relation, "", reading);
    }
}

fn bulk(document: &Value, reading: &mut Reading) {
    let spaces = document.get("nsInfo").map(Value::items).unwrap_or_default();
    let operations = document.get("ops").map(Value::items).unwrap_or_default();
    reading.draft.incomplete |= operations.is_empty();
    for operation in operations {
        let Some((name, Value::Number(at))) = operation.members().first() else {
            reading.draft.incomplete = true;
            continue;
        };
        let space = spaces.get(*at as usize).and_then(|space| space.get("ns")?.text()).unwrap_or_default();
        reading.draft.target(space, Access::Write);
        let all = operation.get("multi").is_some_and(Value::is_true);
        match name.as_str() {
            "insert" => {
                reading.draft.effect(Insert);
                operation
                    .get("document")
                    .into_iter()
                    .for_each(|document| fields(document, space, "", reading));
            }
            "update" => {
                reading.draft.effect(Update);
                condition(operation.get("filter"), all, space, reading);
                changes(operation.get("updateMods"), space, reading);
            }
            "delete" => {
                reading.draft.effect(Delete);
                condition(operation.get("filter"), all, space, reading);
            }
            _ => reading.draft.incomplete = true,
        }
    }
}

/// Methods of the shell: the command that they send, and what their arguments are in it.
const METHODS: &[(&str, &str, &str)] = &[
    ("find", "find", "filter projection"),
    ("findOne", "find", "filter projection"),
    ("countDocuments", "count", "query"),
    ("count", "count", "query"),
    ("estimatedDocumentCount", "count", ""),
    ("distinct", "distinct", "key query"),
    ("aggregate", "aggregate", "pipeline"),
    ("insertOne", "insert", "+documents"),
    ("insertMany", "insert", "documents"),
    ("insert", "insert", "+documents"),
    ("save", "update", "save"),
    ("deleteOne", "delete", "q"),
    ("deleteMany", "delete", "q"),
    ("remove", "delete", "q"),
    ("updateOne", "update", "q u"),
    ("updateMany", "update", "q u"),
    ("update", "update", "q u"),
    ("replaceOne", "update", "q u"),
    ("findOneAndDelete", "findAndModify", "query"),
    ("findOneAndUpdate", "findAndModify", "query update"),
    ("findOneAndReplace", "findAndModify", "query update"),
    ("findAndModify", "findAndModify", "*"),
    ("drop", "drop", ""),
    ("dropIndex", "dropIndexes", "index"),
    ("dropIndexes", "dropIndexes", "index"),
    ("createIndex", "createIndexes", "indexes"),
    ("createIndexes", "createIndexes", "indexes"),
    ("renameCollection", "renameCollection", "to dropTarget"),
    ("stats", "collStats", ""),
    ("mapReduce", "mapReduce", "map reduce"),
    ("validate", "validate", ""),
];

/// Methods of the database itself.
const DATABASE_METHODS: &[(&str, &str)] = &[
    ("dropDatabase", "dropDatabase"),
    ("createCollection", "create"),
    ("createView", "create"),
    ("createUser", "createUser"),
    ("updateUser", "updateUser"),
    ("changeUserPassword", "updateUser"),
    ("dropUser", "dropUser"),
    ("createRole", "createRole"),
    ("dropRole", "dropRole"),
    ("grantRolesToUser", "grantRolesToUser"),
    ("revokeRolesFromUser", "revokeRolesFromUser"),
    ("auth", "authenticate"),
    ("eval", "eval"),
    ("shutdownServer", "shutdown"),
    ("setProfilingLevel", "profile"),
    ("killOp", "killOp"),
    ("currentOp", "currentOp"),
    ("serverStatus", "serverStatus"),
    ("stats", "dbStats"),
    ("getCollectionNames", "listCollections"),
    ("getCollectionInfos", "listCollections"),
    ("fsyncLock", "fsync"),
    ("hello", "hello"),
];

/// `db.orders.deleteMany({})` -> the command's document.
fn call(reader: &mut Reader<'_>) -> Option<Value> {
    if reader.name()? != "db" {
        return None;
    }
    let mut path: Vec<String> = Vec::new();
    loop {
        if reader.take(b'.') {
            let name = reader.name()?.to_owned();
            if !reader.take(b'(') {
                path.push(name);
                continue;
            }
            let mut arguments = reader.arguments()?;
            match name.as_str() {
                "getCollection" | "collection" => path.push(arguments.first()?.text()?.to_owned()),
                // Another database of the same server: the collections that follow are its own.
                "getSiblingDB" => {}
                "runCommand" | "adminCommand" => {
                    let whole = arguments.drain(..).next()?;
                    modifiers(reader)?;
                    return match whole {
                        Value::Text(name) => Some(Value::Object(vec![(name, Value::Number(1.0))])),
                        whole => Some(whole),
                    };
                }
                _ => {
                    let document = method(&name, &path.join("."), arguments)?;
                    let explained = modifiers(reader)?;
                    return Some(if explained {
                        Value::Object(vec![("explain".to_owned(), document)])
                    } else {
                        document
                    });
                }
            }
        } else if reader.take(b'[') {
            path.push(reader.value()?.text()?.to_owned());
            reader.take(b']').then_some(())?;
        } else {
            return None;
        }
    }
}

/// What follows a call and changes nothing about what it does: `.sort({})`, `.limit(1)`. True where it is explained.
fn modifiers(reader: &mut Reader<'_>) -> Option<bool> {
    let mut explained = false;
    while reader.take(b'.') {
        let name = reader.name()?;
        reader.take(b'(').then_some(())?;
        reader.arguments()?;
        explained |= name == "explain";
    }
    Some(explained)
}

fn method(name: &str, collection: &str, arguments: Vec<Value>) -> Option<Value> {
    if collection.is_empty() {
        let (_, command) = DATABASE_METHODS.iter().find(|(method, _)| *method == name)?;
        let target = arguments.into_iter().next().unwrap_or(Value::Number(1.0));
        let target = match target {
            Value::Object(members) => members.into_iter().find(|(key, _)| key == "user")?.1,
            other => other,
        };
        return Some(Value::Object(vec![((*command).to_owned(), target)]));
    }
    let (_, command, names) = METHODS.iter().find(|(method, ..)| *method == name)?;
    let target = ((*command).to_owned(), Value::Text(collection.to_owned()));
    let option = |key: &str| arguments.iter().skip(1).any(|a| a.get(key).is_some_and(Value::is_true));
    let upsert = option("upsert");
    let one = match name {
        "remove" => {
            option("justOne") || matches!(arguments.get(1), Some(Value::Bool(true) | Value::Number(1.0)))
        }
        "update" => !option("multi"),
        _ => name.ends_with("One"),
    };
    let mut arguments = arguments.into_iter();
    let mut rest: Vec<(String, Value)> = Vec::new();
    match *names {
        "*" => rest = arguments.next()?.members().to_vec(),
        "save" => {
            let u = arguments.next()?;
            let q = Value::Object(vec![("_id".to_owned(), u.get("_id").cloned().unwrap_or(Value::Code))]);
            let one =
                vec![("q".to_owned(), q), ("u".to_owned(), u), ("upsert".to_owned(), Value::Bool(true))];
            rest.push(("updates".to_owned(), Value::List(vec![Value::Object(one)])));
        }
        "q" | "q u" => {
            let mut inner: Vec<(String, Value)> =
                names.split(' ').map(str::to_owned).zip(arguments.by_ref()).collect();
            let (list, flag) =
                if *names == "q" { ("deletes", ("limit", one)) } else { ("updates", ("multi", !one)) };
            inner.push((flag.0.to_owned(), Value::Bool(flag.1)));
            inner.push(("upsert".to_owned(), Value::Bool(upsert)));
            rest.push((list.to_owned(), Value::List(vec![Value::Object(inner)])));
        }
        "+documents" => {
            let document = arguments.next()?;
            let documents =
                if matches!(document, Value::List(_)) { document } else { Value::List(vec![document]) };
            rest.push(("documents".to_owned(), documents));
        }
        names => rest.extend(names.split_ascii_whitespace().map(str::to_owned).zip(arguments.by_ref())),
    }
    if *command == "findAndModify" && name == "findOneAndDelete" {
        rest.push(("remove".to_owned(), Value::Bool(true)));
    }
    if *command == "aggregate" && rest.is_empty() {
        rest.push(("pipeline".to_owned(), Value::List(Vec::new())));
    }
    rest.insert(0, target);
    Some(Value::Object(rest))
}

/// Most members and items that are shown of one level.
const SHOWN: usize = 64;

/// The document with a placeholder for every value but names of collections; lists of equal things are cut.
fn show(value: &Value, out: &mut String, depth: usize) {
    match value {
        Value::Object(members) => {
            out.push('{');
            for (i, (name, value)) in members.iter().take(SHOWN).enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                out.push_str(name);
                out.push_str(": ");
                let names = depth == 0 && (i == 0 || name == "$db")
                    || matches!(
                        name.as_str(),
                        "$out" | "into" | "from" | "coll" | "ns" | "drop" | "$unionWith"
                    );
                match value {
                    Value::Text(text) if names => out.push_str(text),
                    value => show(value, out, depth + 1),
                }
            }
            out.push('}');
        }
        Value::List(items) => {
            out.push('[');
            let mut last = String::new();
            for (i, item) in items.iter().take(SHOWN).enumerate() {
                let mut one = String::new();
                show(item, &mut one, depth + 1);
                if i > 0 && one == last {
                    continue;
                }
                if i > 0 {
                    out.push_str(", ");
                }
                out.push_str(&one);
                last = one;
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Call(..) | Value::Code => {
            out.push('?');
        }
    }
}
