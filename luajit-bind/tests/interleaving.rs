//! Many fibers, random programs, random order, random collections: whatever the interleaving, each fiber computes what
//! it would alone. The seeds are fixed; `YUE_SEEDS=n` runs more of them.

mod common;

use common::{chunk, with_vm};
use std::cell::RefCell;
use std::rc::Rc;
use yue_luajit::Vm;

/// A small generator, so that a seed is a run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Pieces of program, each a function body that adds to `sum` in its own way and may suspend in `y()`, which suspends,
/// collects, or does nothing, as its own generator says.
const PIECES: &[&str] = &[
    "for i = 1, 20 do y() sum = sum + i end",
    "local ok, e = pcall(function() y() error({n = 3}) end) y() sum = sum + e.n",
    "local _, e = xpcall(function() y() error('x', 0) end, function(m) y() return m .. 'y' end) sum = sum + #e",
    "local t = setmetatable({}, {__index = function(_, k) y() return k end}) for i = 1, 9 do sum = sum + t[i] end",
    "local t = setmetatable({}, {__call = function(_, a) y() return a + 1 end}) sum = sum + t(4)",
    "local mt = {} mt.__lt = function(a, b) y() return a.v < b.v end local t = {}
     for i = 1, 12 do t[i] = setmetatable({v = (i * 7) % 13}, mt) end table.sort(t) for i = 1, 12 do sum = sum
         + t[i].v * i end",
    "local t = {} for i = 1, 15 do t[i] = (i * 11) % 17 end table.sort(t, function(a, b) y() return a < b end)
     for i = 1, 15 do sum = sum + t[i] * i end",
    "sum = sum + #(('abcdef'):gsub('[ace]', function(c) y() return c .. c end))",
    "local co = coroutine.wrap(function() for i = 1, 5 do y() coroutine.yield(i) end return 9 end) for i = 1, 6
        do sum = sum + co() end",
    "local co = coroutine.create(function() y() error('in co') end) sum = sum + (coroutine.resume(co) and 1 or 2)",
    "for i in (function() local n = 0 return function() y() n = n + 1 if n < 8 then return n end end end)() do
        sum = sum + i end",
    "local parts, i = {'return ', '1', '+2'}, 0 sum = sum + load(function() y() i = i + 1 return parts[i] end)()",
    "local s = {} for i = 1, 60 do s[#s + 1] = tostring(i) if i % 20 == 0 then y() end end sum = sum +
        #table.concat(s)",
    "local function fib(n) if n < 2 then return n end if n == 5 then y() end return fib(n - 1) + fib(n - 2) end
        sum = sum + fib(12)",
    "local n = 0 for i = 1, 400 do n = n + i % 3 if i % 100 == 0 then y() end end sum = sum + n",
    "local ffi = require('ffi') local b = ffi.new('int64_t[8]') for i = 0, 7 do y() b[i] = i end sum = sum +
        tonumber(b[7])",
    "local f = function(...) y() return select('#', ...) end sum = sum + f(1, nil, 3, nil)",
    "local ok = pcall(fail, 'on purpose') y() sum = sum + (ok and 1 or 5)",
    "sum = sum + select(2, pcall(string.rep)):len() * 0 + #tostring(setmetatable({}, {__tostring = function()
        y() return 'abc' end}))",
];

fn program(random: &mut Random) -> String {
    let mut text = String::from(
        "local sum, state = 0, ...\nlocal function y() state = (state * 1103515245 + 12345) % 2147483648 ",
    );
    text.push_str("local r = math.floor(state / 65536) % 16 if r < 9 then yield() ");
    text.push_str("elseif r == 9 then collectgarbage() ");
    text.push_str("elseif r < 12 then collectgarbage('step') end end\n");
    for _ in 0..4 + random.below(8) {
        let piece = PIECES[random.below(PIECES.len() as u64) as usize];
        text.push_str(&format!("do {piece} end\n"));
    }
    text.push_str("return sum");
    text
}

/// Runs the programs in fibers, all at once if `together`, and returns their sums.
fn sums(vm: &Vm, programs: &[String], together: bool) -> Vec<f64> {
    let results = Rc::new(RefCell::new(vec![f64::NAN; programs.len()]));
    let mut fibers = Vec::new();
    for (index, text) in programs.iter().enumerate() {
        let mut state = chunk(vm, text);
        state.push_number(index as f64 + 1.0);
        let results = Rc::clone(&results);
        let fiber = state.spawn(None, move |mut ended| {
            assert!(ended.ok, "{}", ended.error_text());
            results.borrow_mut()[index] = ended.state.number(1).expect("a number");
        });
        if together {
            fibers.push(fiber.expect("a fiber"));
        } else {
            fiber.expect("a fiber").join().expect("it ends");
        }
    }
    for fiber in fibers {
        fiber.join().expect("it ends");
    }
    Rc::try_unwrap(results)
        .expect("all fibers have ended")
        .into_inner()
}

#[test]
fn fibers_compute_the_same_together_as_alone() {
    let seeds: u64 = std::env::var("YUE_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(12);
    let before = common::SWITCHES.get();
    for seed in 1..=seeds {
        with_vm(move |vm| {
            if seed % 3 == 0 {
                common::eval(vm, "jit.opt.start('hotloop=2', 'hotexit=1')");
            }
            let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let programs: Vec<_> = (0..60).map(|_| program(&mut random)).collect();
            let alone = sums(vm, &programs, false);
            for _ in 0..2 {
                assert_eq!(sums(vm, &programs, true), alone, "seed={seed}");
            }
        });
    }
    assert!(
        common::SWITCHES.get() - before > 1_000 * seeds,
        "there were too few switches to mean anything"
    );
}
