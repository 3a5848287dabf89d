//! The decoder into Lua: any bytes become values or an error; the values take the memory that was counted for them, Lua
//! can use them, and they encode to bytes that decode to the same.
//!
//! ```text
//!   input:  limits and checks (1 byte) | msgpack values, one after another
//! ```

use crate::rig::Rig;
use std::ffi::c_int;
use yue_luajit::codec::{
    DecodeError, EncodeError, Limits, NotGiven, Object, Owner, Reader, Reference, ReferenceTable,
};
use yue_luajit::{Codec, Stack, Vm, ffi};

/// Uses every value as a program would: each operation works on some of them and raises for the others.
const USE: &[u8] = br#"
    local function use(value)
        if type(value) == 'table' then
            local count = #value
            for k, v in pairs(value) do use(k) use(v) end
            return count
        elseif type(value) == 'userdata' then
            return value.type, #value.data, value == value
        end
        return tostring(value), pcall(function() return value + 1, value == value end)
    end
    return function(...) for i = 1, select('#', ...) do use((select(i, ...))) tostring((select(i, ...))) end end
"#;

/// The number of times that an input is decoded when its memory is measured, so that uncounted memory adds up.
const PASSES: usize = 64;

/// Top-level values of an input; what is behind them is left alone.
const VALUES_MAX: c_int = 200;

/// A VM on a loop, which decodes one input after another.
#[derive(Debug)]
pub struct Decoder {
    rig: Rig,
    vm: Vm,
}

/// The outcome of one pass over the bytes. It has no destructor, because a Lua error may unwind over it.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    error: Option<DecodeError>,
    position: usize,
    decoded_bytes: usize,
    /// Memory of the VM behind the last value: of the last pass, and of the first.
    memory: usize,
    memory_first: usize,
}

/// The values' bytes, once more.
type Encoded = Result<Vec<u8>, Box<EncodeError>>;

impl Decoder {
    /// Makes the VM.
    ///
    /// # Panics
    /// If there is no memory.
    pub fn new(rig: Rig) -> Decoder {
        let vm = Vm::new().expect("a VM");
        let setup = vm.clone();
        rig.run(move || {
            let mut state = setup.borrow_state().expect("a state");
            state.load(USE, c"=use").expect("valid Lua");
            state.attach(|running| {
                running.call().expect("it returns a function");
                // SAFETY: the function is on top of the fiber's own state, where nothing runs.
                unsafe {
                    ffi::lua_setfield(
                        running.state().raw(),
                        ffi::LUA_GLOBALSINDEX,
                        c"use".as_ptr(),
                    )
                };
            });
        });
        Decoder { rig, vm }
    }

    /// Decodes the bytes and checks what comes of it.
    ///
    /// # Panics
    /// If the decoder does not keep its promises.
    pub fn check(&self, data: &[u8]) {
        let [flags, bytes @ ..] = data else {
            return;
        };
        let limits = Limits {
            nesting_max: [128, 2, 1000, 100_000][usize::from(flags & 3)],
            decoded_bytes_max: [32 << 20, 500, 20_000, 1 << 30][usize::from(flags >> 2 & 3)],
        };
        let codec = self.vm.codec().with_limits(limits);
        let (first, encoded) = self.decode(codec, bytes, 1);
        if flags & 0x10 != 0 {
            self.check_memory(codec, bytes, first);
        }
        let Some(encoded) = encoded else {
            return;
        };
        let encoded = encoded.expect("what was decoded encodes");
        let roomy = self.vm.codec().with_limits(Limits {
            nesting_max: limits.nesting_max,
            decoded_bytes_max: 1 << 30,
        });
        let (again, encoded_again) = self.decode(roomy, &encoded, 1);
        assert_eq!(again.error, None, "what was encoded decodes");
        let encoded_again = encoded_again.expect("values").expect("they encode");
        // Not in the same order: a map's pairs come as its hash chains lie.
        assert_eq!(sorted(encoded), sorted(encoded_again));
    }

    /// Decodes so many times in a Lua fiber, where stacks are small, and uses the last values. `None`: there are no
    /// values, but an error.
    fn decode(&self, codec: Codec, bytes: &[u8], passes: usize) -> (Outcome, Option<Encoded>) {
        let vm = self.vm.clone();
        let input = bytes.to_vec();
        let (outcome, encoded) = self.rig.run(move || {
            let mut state = vm.borrow_state().expect("a state");
            state.attach(|running| {
                let (mut outcome, mut encoded) = (None, None);
                let (outcome_at, encoded_at) = (&raw mut outcome, &raw mut encoded);
                let (vm, bytes): (&Vm, &[u8]) = (&vm, &input);
                let used = running.enter(|stack| {
                    // SAFETY: protected; the global is the function that `new` has set.
                    unsafe {
                        ffi::lua_getfield(stack.raw(), ffi::LUA_GLOBALSINDEX, c"use".as_ptr())
                    };
                    let mut memory_first = None;
                    for _ in 1..passes {
                        let (result, _) = decode_all(&codec, stack, bytes, vm);
                        memory_first.get_or_insert(result.memory);
                        // SAFETY: takes the values off this frame, and leaves the function.
                        unsafe { ffi::lua_settop(stack.raw(), 1) };
                    }
                    let (mut result, count) = decode_all(&codec, stack, bytes, vm);
                    result.memory_first = memory_first.unwrap_or(result.memory);
                    // SAFETY: both outlive the call. Encoding raises nothing, and nothing is raised behind it.
                    unsafe {
                        *outcome_at = Some(result);
                        if result.error.is_none() {
                            let mut out = Vec::new();
                            let written = codec.encode_values(
                                stack.raw(),
                                2,
                                count,
                                "args",
                                &Numbers,
                                &mut out,
                            );
                            *encoded_at = Some(written.map(|()| out));
                        }
                    }
                    result.error.is_none()
                });
                used.expect("Lua can use the values");
                (outcome.expect("an outcome"), encoded)
            })
        });
        assert!(outcome.position <= bytes.len());
        if let Some(error) = outcome.error {
            assert!(
                place_of(&error).is_none_or(|at| at <= bytes.len()),
                "{error:?}"
            );
            assert!(!error.to_string().is_empty());
        }
        (outcome, encoded)
    }

    /// Decodes once more, with the table of strings and the stacks as large as they need to be already, and the
    /// collector held: what is in use afterwards is what the values take.
    fn check_memory(&self, codec: Codec, bytes: &[u8], first: Outcome) {
        self.collector(ffi::LUA_GCCOLLECT);
        self.collector(ffi::LUA_GCSTOP);
        let before = self.vm.memory();
        let (second, _) = self.decode(codec, bytes, PASSES);
        self.collector(ffi::LUA_GCRESTART);
        assert_eq!(
            (first.error, first.decoded_bytes),
            (second.error, second.decoded_bytes)
        );
        // A string is made in the first pass, and then found; of all others each pass makes new ones.
        for (memory, passes) in [(second.memory_first, 1), (second.memory, PASSES)] {
            let taken = memory.saturating_sub(before);
            let counted = passes * second.decoded_bytes;
            assert!(
                taken <= counted + counted / 8 + SLACK_BYTES,
                "{taken} bytes taken, {counted} counted in {passes} passes"
            );
        }
    }

    fn collector(&self, what: c_int) {
        self.vm
            .protect(|stack| {
                // SAFETY: protected, on the main state.
                unsafe { ffi::lua_gc(stack.raw(), what, 0) };
            })
            .expect("no Lua error");
    }
}

/// A state's stack may grow once more, and the last value may be made but not counted when an error ends it.
const SLACK_BYTES: usize = 8 << 10;

fn decode_all(codec: &Codec, stack: Stack<'_>, bytes: &[u8], vm: &Vm) -> (Outcome, c_int) {
    let mut reader = Reader::new(bytes);
    let (mut count, mut error) = (0, None);
    while !reader.rest().is_empty() && count < VALUES_MAX && error.is_none() {
        match codec.decode_values(stack, &mut reader, 1, &Numbers) {
            Ok(more) => count += more,
            Err(fault) => error = Some(fault),
        }
    }
    let outcome = Outcome {
        error,
        position: reader.position(),
        decoded_bytes: reader.decoded_bytes(),
        memory: vm.memory(),
        memory_first: 0,
    };
    (outcome, count)
}

fn sorted(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.sort_unstable();
    bytes
}

fn place_of(error: &DecodeError) -> Option<usize> {
    match *error {
        DecodeError::Truncated { at }
        | DecodeError::BadMarker { at }
        | DecodeError::TooDeep { at, .. }
        | DecodeError::TooLarge { at, .. }
        | DecodeError::Crowded { at }
        | DecodeError::BadKey { at } => Some(at),
        _ => None,
    }
}

/// References arrive as their numbers; every third one is unknown.
struct Numbers;

impl ReferenceTable for Numbers {
    fn give(&self, _: Object) -> Result<Reference, NotGiven> {
        Err(NotGiven::Unknown)
    }

    fn take_back(&self, _: Reference) {}

    fn arrive(&self, stack: Stack<'_>, reference: Reference) -> bool {
        let known = reference.owner == Owner::Sender || !reference.id.is_multiple_of(3);
        if known {
            stack.push_number(reference.id as f64);
        }
        known
    }
}
