//! Command lines of Redis, as its inline protocol and its clients write them -> what they do.
//!
//! `SET user:42 "a b"`: words between spaces, quoted as `redis-cli` quotes them, one command a line. The relation of a
//! key is its pattern: `user:*`, because keys hold what columns hold elsewhere.

use std::borrow::Cow;
use std::ops::Range;

use super::{Command, Reading};
use crate::sql::{Access, Effect};

use Effect::{
    Admin, Alter, Call, CopyIn, CopyOut, Create, Delete, Drop, Execute, File, Grant, Insert, Program, Read,
    Replicate, Revoke, Session, Truncate, Update,
};

/// Where a command's keys stand among its words; 0 is the command itself.
#[derive(Clone, Copy)]
enum Keys {
    /// It has none.
    None,
    /// The first argument.
    First,
    /// The first two.
    Two,
    /// Every argument.
    All,
    /// Every argument but the last.
    ButLast,
    /// Every second one, from the first.
    Pairs,
    /// Behind a number of keys, which is this argument.
    Counted(usize),
    /// This argument and those behind it.
    From(usize),
}

use Keys::{All, ButLast, Counted, First, From, Pairs, Two};

struct Known {
    names: &'static str,
    effects: &'static [Effect],
    keys: Keys,
}

const fn known(names: &'static str, effects: &'static [Effect], keys: Keys) -> Known {
    Known { names, effects, keys }
}

/// Commands by what they do; <https://redis.io/docs/latest/commands/>. A name of two words is a command with that first
/// argument.
const COMMANDS: &[Known] = &[
    known(
        "GET STRLEN GETRANGE SUBSTR HGET HMGET HGETALL HKEYS HVALS HLEN HEXISTS HSTRLEN HRANDFIELD HSCAN HTTL HPTTL \
         LRANGE LLEN LINDEX LPOS SMEMBERS SISMEMBER SMISMEMBER SCARD SRANDMEMBER SSCAN ZRANGE ZRANGEBYSCORE \
         ZRANGEBYLEX ZREVRANGE ZREVRANGEBYSCORE ZREVRANGEBYLEX ZSCORE ZMSCORE ZCARD ZCOUNT ZLEXCOUNT ZRANK ZREVRANK \
         ZRANDMEMBER ZSCAN TYPE TTL PTTL EXPIRETIME PEXPIRETIME DUMP GEOPOS GEODIST GEOHASH GEOSEARCH GEORADIUS_RO \
         GEORADIUSBYMEMBER_RO XRANGE XREVRANGE XLEN XPENDING BITCOUNT GETBIT BITPOS BITFIELD_RO SORT_RO JSON.GET \
         JSON.TYPE TS.GET TS.RANGE FT.SEARCH FT.AGGREGATE VCARD VSIM",
        &[Read],
        First,
    ),
    known("MGET EXISTS SINTER SUNION SDIFF PFCOUNT TOUCH JSON.MGET", &[Read], All),
    known("SINTERCARD ZINTERCARD ZINTER ZUNION ZDIFF", &[Read], Counted(1)),
    known("LCS", &[Read], Two),
    known("KEYS SCAN DBSIZE RANDOMKEY INFO TIME LASTSAVE LOLWUT COMMAND PUBSUB", &[Read], Keys::None),
    known("OBJECT XINFO", &[Read], From(2)),
    known("XREAD", &[Read], Keys::None),
    known("XREADGROUP", &[Read, Update], Keys::None),
    known("SUBSCRIBE PSUBSCRIBE SSUBSCRIBE", &[Read], All),
    known("MONITOR", &[Read, Admin], Keys::None),
    known(
        "SET SETEX PSETEX SETRANGE HSET HMSET HSETNX HSETEX LSET INCR INCRBY INCRBYFLOAT DECR DECRBY HINCRBY \
           HINCRBYFLOAT ZINCRBY APPEND SETBIT EXPIRE PEXPIRE EXPIREAT PEXPIREAT PERSIST HEXPIRE HPEXPIRE XGROUP \
           XACK XCLAIM XAUTOCLAIM XSETID BITFIELD JSON.SET JSON.NUMINCRBY",
        &[Update],
        First,
    ),
    known(
        "SETNX LPUSH RPUSH LPUSHX RPUSHX LINSERT SADD ZADD GEOADD XADD PFADD TS.ADD VADD",
        &[Insert],
        First,
    ),
    known("MSET MSETNX", &[Update], Pairs),
    known("GETSET GETEX", &[Read, Update], First),
    known("GETDEL LPOP RPOP SPOP ZPOPMIN ZPOPMAX HGETDEL", &[Read, Delete], First),
    known("BLPOP BRPOP BZPOPMIN BZPOPMAX", &[Read, Delete], ButLast),
    known("LMPOP ZMPOP", &[Read, Delete], Counted(1)),
    known("BLMPOP BZMPOP", &[Read, Delete], Counted(2)),
    known("DEL UNLINK", &[Delete], All),
    known(
        "HDEL SREM ZREM LREM LTRIM ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREMRANGEBYLEX XDEL XTRIM JSON.DEL VREM",
        &[Delete],
        First,
    ),
    known("RENAME RENAMENX COPY MOVE SMOVE LMOVE RPOPLPUSH BLMOVE BRPOPLPUSH", &[Update], Two),
    known("SINTERSTORE SUNIONSTORE SDIFFSTORE PFMERGE", &[Read, Update], All),
    known("ZRANGESTORE GEOSEARCHSTORE", &[Read, Update], Two),
    known("ZUNIONSTORE ZINTERSTORE ZDIFFSTORE", &[Read, Update], First),
    known("SORT GEORADIUS GEORADIUSBYMEMBER", &[Read, Update], First),
    known("BITOP", &[Read, Update], From(2)),
    known("PUBLISH SPUBLISH", &[Insert], First),
    known("RESTORE RESTORE-ASKING", &[CopyIn, Update], First),
    known("MIGRATE", &[Read, CopyOut, Delete], Keys::None),
    known("FLUSHALL FLUSHDB", &[Truncate], Keys::None),
    known("FT.DROPINDEX", &[Drop], First),
    known("FT.CREATE FT.ALTER", &[Create], First),
    known("SWAPDB", &[Alter], Keys::None),
    known("EVAL EVALSHA EVAL_RO EVALSHA_RO", &[Execute], Counted(2)),
    known("FCALL FCALL_RO", &[Call], Counted(2)),
    known("SCRIPT", &[Execute], Keys::None),
    known("FUNCTION", &[Execute, Create], Keys::None),
    known("CONFIG DEBUG SHUTDOWN FAILOVER CLUSTER SENTINEL SLOWLOG LATENCY MEMORY", &[Admin], Keys::None),
    known("SAVE BGSAVE BGREWRITEAOF", &[Admin, File], Keys::None),
    known("REPLICAOF SLAVEOF", &[Admin, Replicate], Keys::None),
    known("SYNC PSYNC REPLCONF", &[Replicate], Keys::None),
    known("MODULE", &[Admin, Program], Keys::None),
    known("ACL", &[Admin], Keys::None),
    known(
        "AUTH HELLO SELECT CLIENT MULTI EXEC DISCARD WATCH UNWATCH RESET QUIT READONLY READWRITE ASKING WAIT \
           WAITAOF UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE",
        &[Session],
        Keys::None,
    ),
    known("PING ECHO ROLE", &[], Keys::None),
];

/// Subcommands that do something else than their command.
const SUBCOMMANDS: &[(&str, &[Effect])] = &[
    ("CONFIG GET", &[Read]),
    ("CONFIG REWRITE", &[Admin, File]),
    ("ACL LIST", &[Read]),
    ("ACL WHOAMI", &[Read]),
    ("ACL GETUSER", &[Read]),
    ("ACL USERS", &[Read]),
    ("ACL CAT", &[Read]),
    ("ACL SETUSER", &[Admin, Grant]),
    ("ACL DELUSER", &[Admin, Revoke]),
    ("ACL LOAD", &[Admin, Grant, File]),
    ("ACL SAVE", &[Admin, File]),
    ("CLIENT KILL", &[Admin]),
    ("CLIENT PAUSE", &[Admin]),
    ("CLIENT LIST", &[Read]),
    ("CLUSTER RESET", &[Admin, Truncate]),
    ("CLUSTER FLUSHSLOTS", &[Admin]),
    ("CLUSTER INFO", &[Read]),
    ("CLUSTER NODES", &[Read]),
    ("CLUSTER SLOTS", &[Read]),
    ("CLUSTER SHARDS", &[Read]),
    ("DEBUG RELOAD", &[Admin, File]),
    ("FUNCTION LIST", &[Read]),
    ("FUNCTION FLUSH", &[Drop]),
    ("FUNCTION DELETE", &[Drop]),
    ("FUNCTION RESTORE", &[Execute, Create]),
    ("MEMORY USAGE", &[Read]),
    ("MODULE LIST", &[Read]),
    ("MODULE UNLOAD", &[Admin]),
    ("SCRIPT EXISTS", &[Read]),
    ("SCRIPT FLUSH", &[Drop]),
    ("SLOWLOG GET", &[Read]),
    ("SLOWLOG LEN", &[Read]),
];

/// Settings that name a file or a program that the server writes or loads.
const FILE_SETTINGS: &[&str] = &[
    "dir",
    "dbfilename",
    "appendfilename",
    "appenddirname",
    "aclfile",
    "logfile",
    "unixsocket",
    "loadmodule",
];

pub(super) fn read(text: &[u8]) -> Vec<(Range<usize>, Command)> {
    let mut commands = Vec::new();
    let mut words = Words { text, at: 0 };
    loop {
        let start = words.at;
        let (line, whole) = words.line();
        if !line.is_empty() {
            commands.push((start..words.at, command(&line, whole)));
        }
        if words.at >= text.len() {
            return commands;
        }
    }
}

fn command(line: &[Cow<'_, [u8]>], whole: bool) -> Command {
    let mut reading = Reading::default();
    let words: Vec<Cow<'_, str>> = line.iter().map(|word| String::from_utf8_lossy(word)).collect();
    let name = words[0].to_ascii_uppercase();
    let first = words.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    let draft = &mut reading.draft;
    draft.operation = if is_name(&name) { name.clone() } else { "?".into() };
    draft.incomplete = !whole;
    let known = COMMANDS.iter().find(|known| known.names.split_ascii_whitespace().any(|n| n == name));
    let pair = format!("{name} {first}");
    let sub = SUBCOMMANDS.iter().find(|(names, _)| *names == pair);
    let Some(known) = known else {
        draft.incomplete = true;
        // Nobody knows what its arguments are.
        reading.secret = true;
        return reading.end(&show(&words, &[], &name, false));
    };
    sub.map_or(known.effects, |(_, effects)| effects).iter().for_each(|&effect| draft.effect(effect));
    let has_sub = matches!(
        &*name,
        "CONFIG"
            | "ACL"
            | "CLIENT"
            | "CLUSTER"
            | "SCRIPT"
            | "FUNCTION"
            | "MODULE"
            | "OBJECT"
            | "XINFO"
            | "XGROUP"
            | "DEBUG"
            | "MEMORY"
            | "SLOWLOG"
            | "LATENCY"
            | "PUBSUB"
            | "COMMAND"
            | "SENTINEL"
    );
    if has_sub && is_name(&first) {
        draft.operation = pair;
    }
    if name == "SORT" && !words.iter().any(|word| word.eq_ignore_ascii_case("STORE")) {
        draft.effects = [Read].into_iter().collect();
    }
    let keys = positions(known.keys, &words);
    let writes = draft
        .effects
        .iter()
        .any(|effect| matches!(effect, Insert | Update | Delete | CopyIn | Create | Drop));
    // A move leaves its source, a store reads all but the first.
    let stores = draft.effects.has(Read) && draft.effects.has(Update) && keys.len() > 1;
    for (n, &at) in keys.iter().enumerate() {
        let access = if writes && !(stores && n > 0) { Access::Write } else { Access::Read };
        draft.target(&pattern(&words[at]), access);
    }
    match &*name {
        "AUTH" | "HELLO" | "MIGRATE" => reading.secret = true,
        "ACL" | "CONFIG" if first == "SETUSER" || first == "SET" => {
            // Users and passwords, `requirepass`, `masterauth`.
            reading.secret = true;
            let settings = words.iter().skip(2).step_by(2);
            if settings.clone().any(|s| FILE_SETTINGS.iter().any(|f| s.eq_ignore_ascii_case(f))) {
                reading.draft.effect(File);
            }
        }
        "EVAL" | "EVAL_RO" => script(&words, &mut reading),
        "SCRIPT" | "FUNCTION" if matches!(&*first, "LOAD" | "RESTORE") => script(&words, &mut reading),
        "EVALSHA" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" | "EXEC" => {
            // What it executes was said elsewhere.
            reading.draft.incomplete |= name != "EXEC";
        }
        _ => {}
    }
    for (at, word) in words.iter().enumerate().skip(1) {
        if keys.contains(&at) {
            key_words(word, &mut reading);
        }
        reading.value("", word);
    }
    let redacted = show(&words, &keys, &name, has_sub);
    reading.end(&redacted)
}

/// The words of a key may say what it holds: `session:token:7`.
fn key_words(key: &str, reading: &mut Reading) {
    let pattern = pattern(key);
    for word in pattern.split([':', '.', '/', '{', '}']).filter(|word| !word.is_empty() && *word != "*") {
        reading.field("", word);
    }
}

/// A script names its commands as literals, or makes them up: only the former can be told.
fn script(words: &[Cow<'_, str>], reading: &mut Reading) {
    reading.draft.incomplete = true;
    let body = words.iter().skip(1).map(|word| word.to_ascii_uppercase()).collect::<Vec<_>>().join(" ");
    let literals = body.split(['\'', '"', '[', ']']).map(str::trim);
    for literal in literals {
        if let Some(known) =
            COMMANDS.iter().find(|known| known.names.split_ascii_whitespace().any(|n| n == literal))
        {
            known.effects.iter().for_each(|&effect| reading.draft.effect(effect));
        }
    }
}

fn positions(keys: Keys, words: &[Cow<'_, str>]) -> Vec<usize> {
    let end = words.len();
    let range = match keys {
        Keys::None => 1..1,
        First => 1..end.min(2),
        Two => 1..end.min(3),
        All => 1..end,
        ButLast => 1..end.saturating_sub(1).max(1),
        From(at) => at.min(end)..end,
        Pairs => return (1..end).step_by(2).collect(),
        Counted(at) => {
            let count = words.get(at).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
            let first = (at + 1).min(end);
            first..first.saturating_add(count).min(end)
        }
    };
    range.collect()
}

/// A key without what is one entity's own: parts with digits, long hexadecimal and mail addresses become `*`.
fn pattern(key: &str) -> String {
    let own = |part: &str| {
        part.contains(|c: char| c.is_ascii_digit() || c == '@' || c == '%' || !c.is_ascii())
            || part.len() > 40
    };
    let parts: Vec<&str> = key.split(':').map(|part| if own(part) { "*" } else { part }).collect();
    parts.join(":")
}

fn is_name(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 32
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The command with its keys' patterns, and a placeholder for everything else.
fn show(words: &[Cow<'_, str>], keys: &[usize], name: &str, sub: bool) -> String {
    let mut out = if is_name(name) { name.to_owned() } else { "?".to_owned() };
    let mut values = 0;
    for (at, word) in words.iter().enumerate().skip(1) {
        let shown = if sub && at == 1 && is_name(word) {
            word.to_ascii_uppercase()
        } else if keys.contains(&at) {
            values = 0;
            pattern(word)
        } else {
            values += 1;
            // Lists of values are cut: their length says nothing.
            if values > 1 {
                continue;
            }
            "?".to_owned()
        };
        out.push(' ');
        out.push_str(&shown);
    }
    out
}

/// Cuts lines into words as `sdssplitargs` does.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    /// The words up to the end of the line, and whether every quote was closed.
    fn line(&mut self) -> (Vec<Cow<'a, [u8]>>, bool) {
        let mut words = Vec::new();
        let mut whole = true;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'\n' => {
                    self.at += 1;
                    break;
                }
                b' ' | b'\t' | b'\r' | b'\0' | 0x0b | 0x0c => self.at += 1,
                _ => words.push(self.word(&mut whole)),
            }
        }
        (words, whole)
    }

    fn word(&mut self, whole: &mut bool) -> Cow<'a, [u8]> {
        let start = self.at;
        let mut made: Option<Vec<u8>> = None;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b'\0' | 0x0b | 0x0c => break,
                b'"' | b'\'' => {
                    let mut word = made.take().unwrap_or_else(|| self.text[start..self.at].to_vec());
                    self.at += 1;
                    *whole &= self.quoted(byte, &mut word);
                    made = Some(word);
                }
                _ => {
                    self.at += 1;
                    if let Some(word) = &mut made {
                        word.push(byte);
                    }
                }
            }
        }
        made.map_or(Cow::Borrowed(&self.text[start..self.at]), Cow::Owned)
    }

    /// Appends up to the closing quote; false where there is none.
    fn quoted(&mut self, quote: u8, word: &mut Vec<u8>) -> bool {
        while let Some(&byte) = self.text.get(self.at) {
            self.at += 1;
            if byte == quote {
                return true;
            }
            if byte != b'\\' {
                word.push(byte);
                continue;
            }
            let Some(&next) = self.text.get(self.at) else { return false };
            self.at += 1;
            if quote == b'\'' {
                if next != b'\'' {
                    word.push(b'\\');
                }
                word.push(next);
                continue;
            }
            let digit = |at: usize| self.text.get(at).and_then(|b| char::from(*b).to_digit(16));
            match (next, digit(self.at), digit(self.at + 1)) {
                (b'x', Some(high), Some(low)) => {
                    word.push((high * 16 + low) as u8);
                    self.at += 2;
                }
                (b'n', ..) => word.push(b'\n'),
                (b'r', ..) => word.push(b'\r'),
                (b't', ..) => word.push(b'\t'),
                (b'b', ..) => word.push(8),
                (b'a', ..) => word.push(7),
                _ => word.push(next),
            }
        }
        false
    }
}
