//! `yue key`: the key that this user shows to agents, and the keys of agents that it trusts.

use crate::ps::run;
use clap::Subcommand;
use std::io::Write;
use yue::nalloc::agent::{
    AgentAddress, KNOWN_AGENTS, KnownAgents, PublicKey, config_folder, fetch_key, owner_key,
};
use yue_scheduler::log_outcome;

const EXAMPLES: &str = "\
Without a subcommand it prints the public half of this user's key, which is made
when it is first needed. Add it to ~/.config/yue/authorized_owners where an
agent runs, and a comment behind it if you like.

Examples:
  yue key                   print the public key
  yue key trust 10.0.0.1    trust the agent there from now on";

const TRUST: &str = "\
Adds the agent's address and key to ~/.config/yue/known_agents. Compare the key
with what `yue agent --key` prints there. Give the key, and only an agent that
has it will be trusted; without it, the agent that answers is.";

/// Print this user's public key, or trust agents.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trust an agent.
    #[command(after_help = TRUST)]
    Trust {
        /// The agent's address: a host, and perhaps a port.
        address: AgentAddress,
        /// Its public key [default: the one that it shows].
        key: Option<PublicKey>,
        /// Trust the key even if another was trusted before.
        #[arg(long)]
        replace: bool,
    },
}

/// Runs the command; returns the exit code.
pub(crate) fn main(arguments: Arguments) -> i32 {
    let outcome = match arguments.command {
        None => owner_key().map(|key| format!("{}\n", key.public())),
        Some(Command::Trust {
            address,
            key,
            replace,
        }) => run(move || trust(&address, key, replace)),
    };
    match outcome {
        Ok(text) => {
            // A reader that has gone needs no key.
            let _ = std::io::stdout().write_all(text.as_bytes());
            0
        }
        Err(text) => {
            log_outcome(format_args!("{text}"));
            1
        }
    }
}

fn trust(address: &AgentAddress, key: Option<PublicKey>, replace: bool) -> Result<String, String> {
    let folder = config_folder()?;
    let key = match key {
        Some(key) => key,
        None => fetch_key(address)
            .map_err(|error| format!("cannot ask the agent at {address} for its key: {error}"))?,
    };
    match KnownAgents::read(&folder)?.key_of(address) {
        Some(known) if known == key => return Ok(format!("{address} {key} is known\n")),
        Some(known) if !replace => {
            return Err(format!(
                "another key is trusted for {address}: {known}. The new one is {key}; if that is right, give --replace"
            ));
        }
        _ => {}
    }
    KnownAgents::add(&folder, address, &key)?;
    Ok(format!(
        "{address} {key} was added to {}; `yue agent --key` must print the same there\n",
        folder.join(KNOWN_AGENTS).display()
    ))
}
