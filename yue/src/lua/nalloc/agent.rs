//! The native by which an owner's next node is started by an agent.

use super::owner::set_carrier;
use crate::lua::files::process::Start;
use crate::lua::host::errors::error;
use crate::lua::native::{native, register};
use crate::nalloc::agent::{Agent, AgentCarrier, Request};
use std::ffi::OsString;
use std::rc::Rc;
use yue_luajit::Stack;
use yue_rpc::ErrorKind;

/// The arguments of `nalloc_carry_agent`.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    number: f64,
    start: Start<'a>,
    is_socket: bool,
    place: &'a [u8],
    key: &'a [u8],
    library: &'a [u8],
    /// The cores, the bytes of memory, the seconds in the queue, the seconds of grace.
    needs: [f64; 4],
}

impl Terms<'_> {
    fn carrier(&self) -> Result<AgentCarrier, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let agent = match self.is_socket {
            true => Agent::Socket(text(self.place).into()),
            false => Agent::At(text(self.place).parse()?),
        };
        let key = match self.key {
            [] => None,
            key => {
                let parsed = text(key).parse();
                Some(parsed.map_err(|error: String| format!("the key of the target: {error}"))?)
            }
        };
        let (_, variables, folder) = self.start.parts();
        let variables = variables
            .into_iter()
            .map(|(name, value)| Ok((unicode(name)?, value.map(unicode).transpose()?)));
        let [cpu, memory, wait, grace] = self.needs;
        let request = Request {
            library: text(self.library),
            cpu,
            memory: memory as u64,
            wait,
            grace,
            variables: variables.collect::<Result<_, String>>()?,
            folder: folder.map_or(Ok(String::new()), |folder| unicode(folder.into()))?,
            ..Request::default()
        };
        if !request.is_valid() {
            return Err("the options cpu, wait and grace are below a million".to_owned());
        }
        Ok(AgentCarrier {
            agent,
            key,
            request,
        })
    }
}

fn unicode(text: OsString) -> Result<String, String> {
    let text = text.into_string();
    text.map_err(|text| format!("{} is not UTF-8, which agents need", text.display()))
}

native! {
    /// `nalloc_carry_agent(number, words, variables, folder, is_socket, place, key, library, cpu, memory, wait,
    /// grace)`: the next node is started by the agent at that address, or socket. The words are ignored; an empty key
    /// is looked up.
    NallocCarryAgent = "nalloc_carry_agent", suspends: false;
    read(stack) -> Terms<'a> {
        Terms {
            number: stack.number(1),
            start: Start::read(stack, 2),
            is_socket: stack.boolean(5),
            place: stack.bytes(6),
            key: stack.bytes(7),
            library: stack.bytes(8),
            needs: [stack.number(9), stack.number(10), stack.number(11), stack.number(12)],
        }
    }
    run(terms) -> () {
        let carrier = terms.carrier().map_err(|text| error(ErrorKind::Allocation, text))?;
        set_carrier(terms.number, Rc::new(carrier))
    }
}

/// Adds the native to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; NallocCarryAgent);
}
