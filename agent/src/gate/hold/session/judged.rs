//! A message, and the session that it comes from -> what the rules say of it, and what is to be masked in its answer.

use super::{
    Action, Analysis, Arc, Desk, Disposition, Masks, Meaning, Mode, Plan, Policy, Session, Subject, Text,
    Verdict, judge, masks, now,
};

/// What sensitive data a text touches.
type Data<'a> = &'a [agent_core::event::DataClass];

impl Session {
    /// The session's database.
    pub(super) fn namespace<'a>(&'a self, desk: &'a Desk) -> &'a str {
        let session = self.reader.session();
        let told = || desk.who.get(&self.cookie).map_or("", |who| &who.db_namespace);
        if session.namespace.is_empty() { told() } else { &session.namespace }
    }

    /// Users and search paths that may be in force.
    pub(super) fn contexts(&self, desk: &Desk) -> Vec<(String, String)> {
        let session = self.reader.session();
        let mut contexts = Vec::new();
        if !session.user.is_empty() {
            contexts.push((session.user.clone(), session.search_path.clone()));
        }
        let who = desk.who.get(&self.cookie).map(|who| (who.db_user.clone(), who.search_path.clone()));
        for (user, path) in self.reader.also().iter().cloned().chain(who) {
            let user = if user.is_empty() { session.user.clone() } else { user };
            if !contexts.contains(&(user.clone(), path.clone())) {
                contexts.push((user, path));
            }
        }
        if contexts.is_empty() {
            // Nobody has said yet who this is.
            contexts.push(Default::default());
        }
        contexts
    }

    /// What is to be masked in the answer to a message: by all rules that want that, in every state that the session may
    /// be in.
    pub(super) fn masks(&self, meaning: &Meaning, desk: &Desk) -> Option<Masks> {
        if !desk.policies.may_mask(self.entry.name) {
            return None;
        }
        let mut rules: Vec<&Policy> = Vec::new();
        self.subjects(meaning, desk, &mut |subject, _| {
            for policy in masks(&desk.policies, subject) {
                if !rules.iter().any(|known| std::ptr::eq(*known, policy)) {
                    rules.push(policy);
                }
            }
        });
        let plan = Plan::of(rules.iter().copied(), &desk.catalog)?;
        Some(Masks {
            plan: Arc::new(plan),
            rules: rules.iter().map(|policy| Arc::clone(&policy.name)).collect(),
        })
    }

    /// Whether the answer to a message can be masked as it has to be. None where it goes on as it is, since the rules say
    /// so; an error where it does not go on: by which rule, and why.
    pub(super) fn maskable(
        &self,
        length: usize,
        masks: Option<&Masks>,
        desk: &Desk,
    ) -> Result<Option<Masks>, (Verdict, String)> {
        let Some(masks) = masks else { return Ok(None) };
        let message = &self.buffer[self.start..self.start + length];
        let why = match &self.answers {
            None => "its answer does not come through the gate, so it cannot be masked".to_owned(),
            Some(answers) => match answers.check(message, &masks.plan) {
                Ok(()) => return Ok(Some(masks.clone())),
                Err(why) => format!("its answer cannot be masked, {why}"),
            },
        };
        let passes = |policy: &&Policy| policy.on_unknown <= Action::Alert;
        let mut rules = masks.rules.iter().filter_map(|name| desk.policies.named(name));
        let Some(strict) = rules.find(|policy| !passes(policy)) else { return Ok(None) };
        let verdict = Verdict {
            policy_rule: Arc::clone(&strict.name),
            policy_version: Arc::clone(&strict.version),
            policy_mode: Some(Mode::Enforce),
            action: Action::Block,
            disposition: Disposition::Blocked,
            message: Arc::clone(&strict.message),
            unknown: false,
        };
        Err((verdict, why))
    }

    /// The strictest verdict over all that the message asks for, in every state that the session may be in.
    pub(super) fn judge(&self, meaning: &Meaning, desk: &Desk) -> Verdict {
        let mut worst = Verdict::default();
        self.subjects(meaning, desk, &mut |subject, _| {
            let verdict = judge(&desk.policies, subject);
            if verdict.outranks(&worst) {
                worst = verdict;
            }
        });
        worst
    }

    /// All that the message asks for, in every state that the session may be in; and the text that says so.
    pub(super) fn subjects(
        &self,
        meaning: &Meaning,
        desk: &Desk,
        look: &mut dyn FnMut(&Subject<'_>, Option<&Arc<Text>>),
    ) {
        let who = desk.who.get(&self.cookie);
        let contexts = self.contexts(desk);
        let mut each = |analysis: &Analysis, text: Option<&Arc<Text>>, data: Data<'_>, complete: bool| {
            for (user, path) in &contexts {
                let subject = Subject {
                    db_system_name: self.entry.name,
                    db_namespace: self.namespace(desk),
                    db_user: user,
                    search_path: path,
                    ai_agent_name: who.map_or("", |who| &who.ai_agent_name),
                    identity_principal: who.map_or("", |who| &who.identity_principal),
                    data_classes: data,
                    statement_complete: complete && analysis.statement_complete,
                    time: now().0,
                    session_id: who.map_or(self.cookie, |who| who.session_id),
                    process: who.and_then(|who| who.process),
                    ..Subject::new(analysis)
                };
                look(&subject, text);
            }
        };
        for text in &meaning.texts {
            let data: &[_] = if desk.policies.needs_data() { text.data_classes(&desk.catalog) } else { &[] };
            // What EXECUTE runs is judged beside it, so it is known after all.
            let known = meaning.complete && meaning.texts.len() > 1;
            let analysis = text.analysis();
            let only_execute = &*analysis.db_operation_name == "EXECUTE" && known;
            if !only_execute {
                each(analysis, Some(text), data, meaning.complete || meaning.texts.len() > 1);
            }
        }
        if let Some(id) = meaning.function {
            each(&Analysis::function_call(id), None, &[], true);
        } else if !meaning.complete {
            each(&Analysis::default(), None, &[], false);
        }
    }
}

/// Whether the kernel side may know a text: then it passes whatever its literals are.
pub(super) fn may_be_known(text: &Arc<Text>, desk: &Desk) -> bool {
    let literals = text.bytes().iter().any(|byte| byte.is_ascii_digit() || *byte == b'\'');
    !literals || !text.is_literal_bound() && !desk.policies.needs_data()
}
