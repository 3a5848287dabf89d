//! The service of a listener, or of an opened connection: its namespace, its settings, its counts.
//!
//! A namespace is a Lua list of layers (tables); `dispatch.rs` serves requests from it.

use crate::lua::host;
use crate::lua::rpc::methods::Methods;
use crate::lua::rpc::options::ServiceSettings;
use std::cell::Cell;
use std::ffi::c_int;
use std::rc::{Rc, Weak};
use yue_luajit::{Error, Vm, ffi};

/// Holds a list of layers in the registry until it is dropped.
pub(crate) struct Layers {
    vm: Vm,
    pub(crate) reference: c_int,
}

impl Layers {
    /// Takes over a registry reference of the calling thread's VM.
    pub(crate) fn new(reference: c_int) -> Result<Layers, Error> {
        let vm = host::with_host(|host| host.vm.clone())?;
        Ok(Layers { vm, reference })
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        // SAFETY: the reference belongs to `self`; setting an existing registry slot allocates nothing and runs no
        // code.
        unsafe {
            ffi::luaL_unref(self.vm.main_state(), ffi::LUA_REGISTRYINDEX, self.reference);
        }
    }
}

/// The service of a listener, or of an opened connection.
pub(crate) struct LuaService {
    /// Its number in Lua.
    pub(crate) id: u32,
    /// The list of layers.
    pub(crate) layers: Rc<Layers>,
    /// Set for an opened connection's service, not a listener's.
    pub(crate) opened: bool,
    pub(crate) settings: ServiceSettings,
    /// The counters of its methods.
    pub(crate) methods: Methods,
    /// The program bound an event of one of its connections.
    pub(crate) watched: Cell<bool>,
    /// Lua has an object of one of its connections, and needs to know when that connection ends.
    pub(crate) known: Cell<bool>,
    this: Weak<LuaService>,
}

impl LuaService {
    pub(crate) fn new(
        id: u32,
        layers: Rc<Layers>,
        opened: bool,
        settings: ServiceSettings,
    ) -> Rc<LuaService> {
        Rc::new_cyclic(|this| LuaService {
            id,
            layers,
            opened,
            settings,
            methods: Methods::default(),
            watched: Cell::new(false),
            known: Cell::new(false),
            this: this.clone(),
        })
    }

    /// The counted pointer to this service, or to a copy if the last pointer is just being dropped.
    pub(crate) fn strong(&self) -> Rc<LuaService> {
        self.this.upgrade().unwrap_or_else(|| {
            LuaService::new(self.id, self.layers.clone(), self.opened, self.settings)
        })
    }
}
