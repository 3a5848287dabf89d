//! The macro `select!`.
//!
//! It turns arms into branches one by one (`@arms`), separates their bodies (`@body`), and binds the branches (`@bind`;
//! by hygiene each step's `branch` is a separate variable). It then waits, takes the outcomes, drops the branches, so
//! that the bodies may use what they borrowed, and runs the body of the branch that has an outcome (`@run`).

/// Waits for the first of several operations to become ready, and runs its arm.
///
/// ```text
/// select! {
///     pattern = recv(receiver)         => body,   // Result<T, Closed>, of a channel or a oneshot
///     pattern = send(sender, pending)  => body,   // Result<(), SendError<T>>; `pending` is a variable, Option<T>
///     pattern = join(handle)           => body,   // Result<T, JoinError>
///     pattern = lock(mutex)            => body,   // MutexGuard
///     pattern = acquire(semaphore, n)  => body,   // Permit
///     pattern = notified(notify)       => body,   // ()
///     pattern = readable(socket)       => body,   // io::Result<()>, of yue's sockets, listeners and pipes
///     pattern = writable(socket)       => body,   // io::Result<()>
///     pattern = after(duration)        => body,   // ()
///     pattern = at(instant)            => body,   // ()
///     pattern = shutdown()             => body,   // (), when a shutdown of the loop is requested
///     pattern = branch                 => body,   // any other expression: a `Branch`
///     default                          => body,   // last: do not wait
/// }
/// ```
///
/// The value is `Result<body's type, Stopped>`: like every suspending call, a select fails in a stopped fiber, and then
/// it has taken no branch. The bodies run in place: `?`, `return`, `break` and `continue` leave the surrounding code.
/// With `if condition` before its arrow, a branch (except one written as a bare expression) takes part only if the
/// condition is true.
///
/// Branches that are not taken lose nothing: a message stays in its channel, a value to be sent stays in its variable,
/// a fiber to be joined can still be joined. See [`sync::select`](crate::sync::select) for how it works, for fairness,
/// and for [`Readiness`](crate::sync::select::Readiness), by which other libraries can take part.
///
/// ```
/// use yue_scheduler::sync::local::{Notify, channel};
/// use yue_scheduler::{Config, Loop, Stopped, select, spawn};
/// use std::{rc::Rc, time::Duration};
///
/// fn serve() -> Result<u32, Stopped> {
///     let (jobs, jobs_in) = channel(8);
///     let quit = Rc::new(Notify::new());
///     let client = quit.clone();
///     spawn(move || {
///         (1..=3).for_each(|job| jobs.send(job).unwrap());
///         client.notify_one();
///     });
///     let mut sum = 0;
///     let mut open = true;
///     loop {
///         select! {
///             job = recv(jobs_in) if open => match job {
///                 Ok(job) => sum += job,
///                 Err(_) => open = false,
///             },
///             _ = notified(quit) if !open => return Ok(sum),
///             _ = after(Duration::from_secs(60)) => panic!("nothing to do for a minute"),
///         }?;
///     }
/// }
///
/// assert_eq!(Loop::new(Config::default()).unwrap().run(serve), Ok(6));
/// ```
#[macro_export]
macro_rules! select {
    ($($arms:tt)+) => {
        $crate::__select!(@arms [] $($arms)+)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __select {
    // All arms have been read. This is the last rule before `default`, which ends them.
    (@arms $done:tt) => { $crate::__select!(@bind [] $done wait [unreachable!("a branch was taken")]) };
    (@arms $done:tt default => $body:block $(,)?) => { $crate::__select!(@bind [] $done poll [$body]) };
    (@arms $done:tt default => $body:expr $(,)?) => { $crate::__select!(@bind [] $done poll [$body]) };

    (@arms $done:tt $pattern:pat = recv($receiver:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [($receiver).recv_branch()] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = send($sender:expr, $pending:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [($sender).send_branch(&mut $pending)] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = join($handle:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [($handle).join_branch()] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = lock($mutex:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [($mutex).lock_branch()] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = acquire($semaphore:expr, $count:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [($semaphore).acquire_branch($count)] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = notified($notify:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [($notify).notified_branch()] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = readable($descriptor:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [($descriptor).readable_branch()] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = writable($descriptor:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [($descriptor).writable_branch()] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = after($duration:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [$crate::sync::select::after($duration)] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = at($instant:expr) $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [$crate::sync::select::at($instant)] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = shutdown() $($rest:tt)+) => {
        $crate::__select!(@if $done [$pattern] [$crate::sync::select::shutdown()] $($rest)+)
    };
    (@arms $done:tt $pattern:pat = $branch:expr => $($rest:tt)+) => {
        $crate::__select!(@body $done [$pattern] [$branch] $($rest)+)
    };

    (@if $done:tt $pattern:tt [$branch:expr] if $condition:expr => $($rest:tt)+) => {
        $crate::__select!(@body $done $pattern [if $condition { Some($branch) } else { None }] $($rest)+)
    };
    (@if $done:tt $pattern:tt $branch:tt => $($rest:tt)+) => {
        $crate::__select!(@body $done $pattern $branch $($rest)+)
    };

    (@body [$($done:tt)*] $pattern:tt $branch:tt $body:block, $($rest:tt)*) => {
        $crate::__select!(@arms [$($done)* { $pattern $branch [$body] }] $($rest)*)
    };
    (@body [$($done:tt)*] $pattern:tt $branch:tt $body:block $($rest:tt)*) => {
        $crate::__select!(@arms [$($done)* { $pattern $branch [$body] }] $($rest)*)
    };
    (@body [$($done:tt)*] $pattern:tt $branch:tt $body:expr, $($rest:tt)*) => {
        $crate::__select!(@arms [$($done)* { $pattern $branch [$body] }] $($rest)*)
    };
    (@body [$($done:tt)*] $pattern:tt $branch:tt $body:expr) => {
        $crate::__select!(@arms [$($done)* { $pattern $branch [$body] }])
    };

    // Each arm has become `{ its branch's variable, its pattern, its body }`.
    (@bind [$($bound:tt)*] [$({ $pattern:tt $branch:tt $body:tt })*] $how:ident $otherwise:tt) => {{
        let outcomes = $crate::__select!(@wait [] [$($branch)*] $how);
        #[allow(unreachable_code)]
        match outcomes {
            Err(stopped) => Err::<_, $crate::Stopped>(stopped),
            Ok(outcomes) => {
                let value = $crate::__select!(@run outcomes [$({ $pattern $body })*] $otherwise);
                Ok(value)
            }
        }
    }};

    (@wait [$($bound:ident)*] [[$branch:expr] $($more:tt)*] $how:ident) => {{
        let branch = $branch;
        let outcomes = $crate::__select!(@wait [$($bound)* branch] [$($more)*] $how);
        outcomes
    }};
    (@wait [$($bound:ident)*] [] $how:ident) => {{
        let taken = $crate::sync::select::$how(&[$(&$bound as &dyn $crate::sync::select::AnyBranch),*]);
        taken.map(|_| $crate::__select!(@outcomes $($bound)*))
    }};

    (@outcomes) => { () };
    (@outcomes $branch:ident $($more:ident)*) => {
        ($crate::sync::select::Branch::take(&$branch), $crate::__select!(@outcomes $($more)*))
    };

    (@run $outcomes:ident [] [$otherwise:expr]) => {{
        let () = $outcomes;
        $otherwise
    }};
    (@run $outcomes:ident [{ [$pattern:pat] [$body:expr] } $($more:tt)*] $otherwise:tt) => {{
        let (outcome, others) = $outcomes;
        match outcome {
            Some($pattern) => $body,
            None => $crate::__select!(@run others [$($more)*] $otherwise),
        }
    }};
}
