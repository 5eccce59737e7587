//! A message that is not forwarded yet -> can the answer to it be masked? Looks at names as they will be once all that
//! waits is done.

use std::collections::HashMap;
use std::sync::Arc;

use super::columns::{self, Meaning};
use super::statement::{self, Step};
use super::{Ask, DEEPEST, LONGEST_TEXT, Masker, Prepared, copy};
use crate::mask::{Plan, Unmaskable};
use crate::sql::lineage::Returned;

impl Masker {
    /// `message` is whole.
    pub(super) fn checked(&self, message: &[u8], plan: &Plan) -> Result<(), Unmaskable> {
        let (kind, body) = match message {
            [kind, _, _, _, _, body @ ..] => (*kind, body),
            _ => return Err(Unmaskable::Malformed),
        };
        let mut reader = crate::reader::Reader::new(body);
        match kind {
            b'Q' => {
                let text = reader.cstring().ok_or(Unmaskable::Malformed)?;
                if text.len() > LONGEST_TEXT {
                    return Err(Unmaskable::TooLong);
                }
                let mut here = HashMap::new();
                statement::parts(text)
                    .into_iter()
                    .try_for_each(|part| self.check_text(part, plan, &mut here, 0))
            }
            b'P' => {
                reader.cstring().ok_or(Unmaskable::Malformed)?;
                let text = reader.cstring().ok_or(Unmaskable::Malformed)?;
                if text.len() > LONGEST_TEXT {
                    return Err(Unmaskable::TooLong);
                }
                self.check_text(text, plan, &mut HashMap::new(), 0)
            }
            b'E' => self.check_portal(reader.cstring().ok_or(Unmaskable::Malformed)?, plan),
            b'F' => Err(Unmaskable::FunctionCall),
            _ => Ok(()),
        }
    }

    /// Can the answer to this statement be masked? `here`: texts behind names that the same message makes.
    fn check_text(
        &self,
        text: &[u8],
        plan: &Plan,
        here: &mut HashMap<Box<[u8]>, Box<[u8]>>,
        depth: usize,
    ) -> Result<(), Unmaskable> {
        if self.strange || depth > DEEPEST {
            return Err(Unmaskable::NotUnderstood);
        }
        let known = |name: &[u8], found: Option<&Prepared>| match (here.get(name).cloned(), found) {
            (Some(text), _) => Ok(text),
            (None, Some(prepared)) => prepared.text.clone().ok_or(Unmaskable::UnknownStatement),
            (None, None) => Err(Unmaskable::UnknownStatement),
        };
        match statement::step(text) {
            Step::Copy if self.ambiguous => Err(Unmaskable::NotUnderstood),
            Step::Copy => copy::check(text, plan),
            Step::Execute { name } => {
                let text = known(&name, self.statement_named(&name).as_deref())?;
                self.check_text(&text, plan, here, depth + 1)
            }
            Step::Fetch { name } => {
                let portal = self.portal_named(&name);
                let text = known(&name, portal.as_deref())?;
                self.check_text(&text, plan, here, depth + 1)
            }
            Step::Prepare { name, body } | Step::Declare { name, query: body } => {
                here.insert(name, body.into());
                self.check_text(body, plan, here, depth + 1)
            }
            _ => match Meaning::of(Some(text)) {
                Meaning::Known(Returned::Rows(lineage)) => columns::keeps_hidden(&lineage, plan),
                Meaning::Known(Returned::Nothing) => Ok(()),
                _ => Err(Unmaskable::NotUnderstood),
            },
        }
    }

    /// The statement that a name will stand for once what waits is done.
    fn statement_named(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        for ask in self.waiting.iter().rev() {
            match ask {
                Ask::Parse { name: own, prepared } if **own == *name => return Some(Arc::clone(prepared)),
                Ask::CloseStatement(own) if **own == *name => return None,
                Ask::Query(query) => {
                    for part in query.parts.iter().rev() {
                        if let Step::Prepare { name: own, body } = statement::step(part)
                            && *own == *name
                        {
                            let text = Some(body.into());
                            return Some(Arc::new(Prepared { text, ..Prepared::default() }));
                        }
                    }
                }
                _ => {}
            }
        }
        self.statements.get(name).cloned()
    }

    /// The same for a portal or cursor.
    fn portal_named(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        for ask in self.waiting.iter().rev() {
            match ask {
                Ask::Bind { name: own, statement, .. } if **own == *name => {
                    return self.statement_named(statement);
                }
                Ask::Query(query) => {
                    for part in query.parts.iter().rev() {
                        if let Step::Declare { name: own, query } = statement::step(part)
                            && *own == *name
                        {
                            let text = Some(query.into());
                            return Some(Arc::new(Prepared { text, ..Prepared::default() }));
                        }
                    }
                }
                _ => {}
            }
        }
        self.portals.get(name).and_then(|portal| portal.prepared.clone())
    }

    /// True where a Describe of the portal or of its statement was answered or waits.
    fn is_described(&self, portal: &[u8]) -> bool {
        let mut statement = None::<&[u8]>;
        // A portal that is described, whose statement is still to be met.
        let mut described = None::<&[u8]>;
        for ask in self.waiting.iter().rev() {
            match (ask, statement) {
                (Ask::DescribePortal(name), None) if **name == *portal => return true,
                (Ask::Bind { name, statement: own, .. }, None) if **name == *portal => statement = Some(own),
                (Ask::DescribePortal(name), Some(_)) => described = Some(name),
                (Ask::Bind { name, statement, .. }, Some(own)) if described == Some(&**name) => {
                    if **statement == *own {
                        return true;
                    }
                    described = None;
                }
                (Ask::DescribeStatement(name), Some(own)) if **name == *own => return true,
                (Ask::Parse { name, .. }, Some(own)) if **name == *own => return false,
                _ => {}
            }
        }
        match statement {
            Some(own) => self.statements.get(own).is_some_and(|prepared| prepared.described.get().is_some()),
            None => self.portals.get(portal).is_some_and(|portal| {
                let of_statement = portal.prepared.as_ref().is_some_and(|p| p.described.get().is_some());
                portal.described.get().is_some() || of_statement
            }),
        }
    }

    /// Can what a portal returns be masked?
    fn check_portal(&self, name: &[u8], plan: &Plan) -> Result<(), Unmaskable> {
        let described = self.is_described(name);
        let prepared = self.portal_named(name);
        let Some(text) = prepared.as_ref().and_then(|prepared| prepared.text.as_deref()) else {
            // Its columns tell, if somebody asked for them.
            return if described { Ok(()) } else { Err(Unmaskable::UnknownStatement) };
        };
        self.check_text(text, plan, &mut HashMap::new(), 0)?;
        if described {
            return Ok(());
        }
        match Meaning::of(Some(text)) {
            Meaning::Known(Returned::Rows(lineage)) if !lineage.whole => Err(Unmaskable::UnknownColumns),
            _ => Ok(()),
        }
    }
}
