//! The decoder and encoder of JSON: any bytes become a value or an error at a position in the text; the value encodes
//! to a text that decodes to the same, and that text is the same each time.
//!
//! ```text
//!   input:  style (1 byte) | JSON text
//! ```

use crate::rig::Rig;
use yue_luajit::Vm;
use yue_luajit::json::{JsonFault, JsonStyle};

/// A VM on a loop, which decodes one input after another.
#[derive(Debug)]
pub struct Json {
    rig: Rig,
    vm: Vm,
}

impl Json {
    /// Makes the VM.
    ///
    /// # Panics
    /// If there is no memory.
    pub fn new(rig: Rig) -> Json {
        let vm = Vm::new().expect("a VM");
        Json { rig, vm }
    }

    /// Decodes the text and checks the result.
    ///
    /// # Panics
    /// If the decoder or the encoder does not keep its promises.
    pub fn check(&self, data: &[u8]) {
        let [flags, text @ ..] = data else {
            return;
        };
        let indent: &'static [u8] = [&b""[..], b" ", b"\t", b"    "][usize::from(flags & 3)];
        match self.round(text, indent) {
            Ok(once) => {
                assert!(std::str::from_utf8(&once).is_ok());
                let twice = self.round(&once, indent).expect("what was encoded decodes");
                assert_eq!(once, twice);
            }
            Err(fault) => {
                assert!(fault.at <= text.len());
                assert!(fault.describe(text).starts_with("line "));
            }
        }
    }

    /// Decodes in a Lua fiber, where stacks are small, and encodes the value with sorted keys.
    fn round(&self, text: &[u8], indent: &'static [u8]) -> Result<Vec<u8>, JsonFault> {
        let (vm, input) = (self.vm.clone(), text.to_vec());
        self.rig.run(move || {
            let mut state = vm.borrow_state().expect("a state");
            state.attach(|running| {
                let (mut outcome, codec) = (None, vm.codec());
                let outcome_at = &raw mut outcome;
                let text: &[u8] = &input;
                let entered = running.enter(move |stack| {
                    let decoded = codec.decode_json(stack, text);
                    let style = JsonStyle {
                        indent,
                        sort: true,
                        refuse: None,
                    };
                    // SAFETY: the outcome outlives the call; the value is at 1. Encoding raises nothing, and nothing is
                    // raised behind it.
                    unsafe {
                        *outcome_at = Some(decoded.map(|()| {
                            let mut out = Vec::new();
                            let encoded = codec.encode_json(stack.raw(), 1, style, &mut out);
                            encoded.expect("what was decoded encodes");
                            out
                        }));
                    }
                    false
                });
                entered.expect("no Lua error");
                outcome.expect("an outcome")
            })
        })
    }
}
