//! What a client sends, held on its way -> messages; and what is sent in place of one that is refused.
//!
//! Unlike [`super::Protocol`] it sees one direction only, and only those messages that were not known to be harmless.

use std::sync::Arc;

use crate::exchange::{Blindness, Session};
use crate::sql::{Text, Texts};

/// What the kernel side may do with a message of this first byte, before anybody has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It cannot ask for anything.
    Pass,
    /// A text follows the header.
    Text,
    /// A name, then a text that goes by it.
    NamedText,
    /// A name that does not matter, then one of a text.
    Named,
    /// It has to be read.
    Hold,
}

/// How a protocol is held.
pub struct Inline {
    /// What to add to a message's length, which follows its first byte in network order, to get the whole message's.
    pub more: u32,
    /// Second word of a first message that has to be read, as it may be about another session.
    pub never: u32,
    /// By first byte.
    pub act: fn(u8) -> Act,
    /// The function of the server's program that is given each text, NUL behind it, as its first argument before the text
    /// is parsed; it is exported. There what nobody can read on its way is judged.
    pub parser: Option<&'static str>,
    /// What the title of a server's process says: true where its session has asked for nothing. None where it does not say.
    pub idle: fn(&str) -> Option<bool>,
    /// A reader of one connection.
    pub open: fn(super::Start) -> Box<dyn Requests>,
}

/// What stands at the beginning of what is held.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    Short,
    /// This many bytes, perhaps more than are there, go on as they are.
    Pass(u64),
    /// A message of this many bytes asks for something.
    Ask(usize),
    /// A client asks to stop what the session of this number does. The message has this many bytes.
    Cancel(usize, u32),
    /// From here on nothing can be read.
    Blind(Blindness),
    /// This is not the protocol.
    Unknown,
    /// It was joined late, and no message begins here.
    Astray,
}

/// What is known of a name.
#[derive(Clone, Debug)]
pub enum Named {
    /// It was given to this text while nobody read.
    Text(Arc<Text>),
    /// It was given while nobody read, and the text is not known any more.
    Lost,
    /// It was not given while nobody read.
    Unseen,
}

/// What a message asks for.
#[derive(Clone, Debug, Default)]
pub struct Meaning {
    /// The statements, in order, each as what it does: for a prepared one, the text behind its name.
    pub texts: Vec<Arc<Text>>,
    /// A function, by its object id.
    pub function: Option<u32>,
    /// False where part of it is not known: a name without a text.
    pub complete: bool,
    /// True where the same text would mean the same at any time in any such session.
    pub lasting: bool,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// What the client is told.
    pub message: &'a str,
    /// What it may do about it; empty for nothing.
    pub hint: &'a str,
    /// The client itself has given it up.
    pub canceled: bool,
}

/// Reads what one client sends.
pub trait Requests: Send {
    /// It was not read for a while: what comes next may be anything, and has to prove that it is a message.
    fn rejoin(&mut self);
    /// What these bytes begin with. They are the same, and more, until something else than [`Step::Short`] was said.
    fn next(&mut self, bytes: &[u8]) -> Step;
    /// What a message that [asks](Step::Ask) means; what it changes about names and the session is followed. `named`
    /// knows names that were given when nobody read.
    fn meaning(
        &mut self,
        message: &[u8],
        texts: &mut Texts,
        named: &mut dyn FnMut(&[u8]) -> Named,
    ) -> Meaning;
    /// The text that the kernel side would know the message by, and the name that it is given with it.
    fn text<'a>(&self, message: &'a [u8]) -> Option<(Option<&'a [u8]>, &'a [u8])>;
    /// Writes the message that asks for nothing but this text.
    fn wrap(&self, text: &[u8], out: &mut Vec<u8>);
    /// Writes what is sent in place of a message, so that the server itself refuses.
    fn refuse(&self, message: &[u8], refusal: Refusal<'_>, out: &mut Vec<u8>);
    /// The message whose meaning was asked last does not reach the server: names stand for what they stood for before.
    fn refused(&mut self);
    /// True once the handshake's first messages, which are no requests, are behind it.
    fn begun(&self) -> bool;
    /// What is known of the session.
    fn session(&self) -> &Session;
    /// Users and search paths that have been in force since the session began, beside those of [`Requests::session`]:
    /// whether a change was taken back only the answers tell.
    fn also(&self) -> &[(String, String)];
}
