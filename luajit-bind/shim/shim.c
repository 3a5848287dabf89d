/*
** The part of yue that uses LuaJIT's internals.
**
** A Lua fiber is a native fiber whose stack holds LuaJIT's C frames; a switch takes the CPU away from under them. What
** LuaJIT keeps per *stack* moves along by itself (it lives in the lua_State and in the frames). What it keeps per *VM*
** but means per stack must be handled here, on every switch:
**
**   g->cur_L        the running lua_State: written back on resume (code after a C function returns sets it anyway)
**   g->jit_base     non-NULL while compiled code runs: its frames cannot be resumed, so a switch is refused
**   g->hookmask     the upper bits say "in a hook", "in __gc", "in a VM event": the VM is not re-entrant there: refused
**   g->vmstate      the state that the profiler reads: saved and written back
**   J->state        a trace being recorded belongs to one stack: aborted
**
** (The FFI's own notion of the running lua_State is set by each call into it, and calls through the FFI cannot
** suspend.) And one rule, which needs no knowledge of all the ways in which C can call C: a fiber inside Lua may switch
** only if the innermost C function of the current lua_State is one of yue's, in its second stage (src/function.rs). So
** an FFI call, a foreign C function, or a destructor that runs while a Lua error unwinds cannot switch by accident.
**
** Everything here runs on the VM's own thread. Functions that may raise a Lua error say so.
*/

#define LUA_CORE
#define _GNU_SOURCE

#include <stdlib.h>
#include <stdio.h>
#include <math.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>
#include <sys/wait.h>

#include "lua.h"
#include "lauxlib.h"
#include "lualib.h"
#include "lj_obj.h"
#include "lj_gc.h"
#include "lj_err.h"
#include "lj_buf.h"
#include "lj_str.h"
#include "lj_tab.h"
#include "lj_state.h"
#include "lj_frame.h"
#include "lj_ctype.h"
#include "lj_cdata.h"
#include "lj_jit.h"
#include "lj_trace.h"
#include "lj_dispatch.h"
#include "lj_ff.h"
#include "shim.h"

/* The running Lua fiber of this thread; NULL outside fibers. Fibers never leave their thread. */
static __thread YueFiber *current;
static __thread size_t entered;

/* -- Switching ------------------------------------------------------------ */

/* Whether one of the frames between the top of L and its bottom is an FFI callback. */
static int has_callback_frame(lua_State *L)
{
  cTValue *frame = L->base-1, *bottom = tvref(L->stack)+LJ_FR2;
  while (frame > bottom) {
    if (frame_iscont(frame) && frame_iscont_fficb(frame))
      return 1;
    frame = frame_prev(frame);
  }
  return 0;
}

/* The coroutine that `L`, stopped in coroutine.resume or in a wrapped coroutine, is waiting for. */
lua_State *yue_shim_resumed_by(lua_State *L)
{
  GCfunc *fn = curr_func(L);
  if (fn->c.ffid == FF_coroutine_resume && tvisthread(L->base))
    return threadV(L->base);
  if (fn->c.ffid == FF_coroutine_wrap_aux)
    return threadV(&fn->c.upvalue[0]);
  return NULL;
}

/*
** Marks a lua_State that was made to be lent to fibers (Vm::thread). A C module may keep the state of its first call,
** and call back on it later, from another fiber, when that state runs a third one or waits in the pool. The collector
** keeps this bit and does not use it.
*/
#define MADE_FOR_FIBERS 0x80

void yue_shim_mark_lendable(lua_State *L)
{
  L->marked |= MADE_FOR_FIBERS;
}

/* Whether all C frames of a coroutine lie on the running fiber's native stack: between here and the fiber's root. */
static int is_on_this_stack(YueFiber *f, lua_State *L)
{
  char *lowest = (char *)__builtin_frame_address(0), *highest = (char *)f;
  void *cf;
  for (cf = cframe_raw(L->cframe); cf != NULL; cf = cframe_raw(cframe_prev(cf))) {
    if ((char *)cf < lowest || (char *)cf > highest)
      return 0;
  }
  return 1;
}

/* Walks from the fiber's own state through the coroutines it has resumed. */
static int under_callback(lua_State *L, lua_State *running)
{
  while (L != NULL) {
    if (has_callback_frame(L))
      return 1;
    if (L == running)
      return 0;
    L = yue_shim_resumed_by(L);
  }
  return 1;  /* The chain is broken: C code resumed a coroutine. Play safe. */
}

static const char *refusal(YueFiber *f, global_State *g)
{
  lua_State *L = f->inside;
  if (tvref(g->jit_base) != NULL)
    return "cannot suspend inside a JIT-compiled FFI call";
  if (g->hookmask & HOOK_GC)
    return "cannot suspend inside a __gc finalizer";
  if (g->hookmask & HOOK_VMEVENT)
    return "cannot suspend inside a VM event handler";
  if (g->hookmask & HOOK_ACTIVE)
    return "cannot suspend inside a debug hook";
  if (L == NULL)  /* Not in one of our functions: fine if the fiber runs no Lua at all. */
    return f->root->cframe == NULL ? NULL :
      "cannot suspend here: not inside a suspending function (or a Lua error is unwinding)";
  if (obj2gco(L) != gcref(g->cur_L) || savestack(L, L->base) != f->inside_at)
    return "cannot suspend here: the innermost C function cannot suspend (an FFI call, or a Lua error is unwinding)";
  /* C code called back on a state that another fiber has, or gets next: its frames would be overwritten. */
  if (L != f->root && ((L->marked & MADE_FOR_FIBERS) || !is_on_this_stack(f, L)))
    return "cannot suspend here: a C module called back on the Lua state of another fiber (load it, and run what calls "
      "back, in one fiber)";
  if (ctype_ctsG(g) && ctype_ctsG(g)->cb.sizeid != 0 && under_callback(f->root, L))  /* Callbacks were ever made. */
    return "cannot suspend under an FFI callback";
  return NULL;
}

/* Whether the collector is running a finalizer. */
int yue_shim_in_finalizer(lua_State *L)
{
  return (G(L)->hookmask & HOOK_GC) != 0;
}

/* Whether the running fiber may switch: NULL if so, otherwise the reason why not. Never raises. */
const char *yue_shim_may_switch(void)
{
  return current ? refusal(current, G(current->root)) : NULL;
}

/* The running fiber is about to lose the CPU. NULL if it may; its state is saved then. Never raises. */
const char *yue_shim_leave(YueFiber *f)
{
  global_State *g = G(f->root);
  const char *why = refusal(f, g);
  if (why)
    return why;
  if (LJ_UNLIKELY(G2J(g)->state != LJ_TRACE_IDLE))
    lj_trace_abort(g);
  f->saved_vmstate = g->vmstate;
  current = NULL;
  return NULL;
}

/* The fiber runs again (or for the first time). Never raises. */
void yue_shim_enter(YueFiber *f)
{
  current = f;
  entered++;
  if (f->inside) {
    global_State *g = G(f->root);
    setgcref(g->cur_L, obj2gco(f->inside));
    g->vmstate = f->saved_vmstate;
  }
}

/* How often a fiber has entered Lua on this thread: while it is the same, the same one runs without a pause. */
size_t yue_shim_entered(void)
{
  return entered;
}

/* The fiber has finished with Lua. */
void yue_shim_end(YueFiber *f)
{
  if (current == f)
    current = NULL;
}

/* Enters the second stage of one of yue's functions, running on L: until yue_shim_outside it may suspend. */
void yue_shim_inside(lua_State *L, lua_State **old, ptrdiff_t *old_at)
{
  YueFiber *f = current;
  if (f) {
    *old = f->inside;
    *old_at = f->inside_at;
    f->inside = L;
    f->inside_at = savestack(L, L->base);
  }
}

void yue_shim_outside(lua_State *old, ptrdiff_t old_at)
{
  YueFiber *f = current;
  if (f) {
    f->inside = old;
    f->inside_at = old_at;
  }
}

YueFiber *yue_shim_current(void)
{
  return current;
}

/* Runs f(L) protected, on a lua_State that is not the running one. Never raises; the status is lua_pcall's. */
int yue_shim_protect(lua_State *L, lua_CFunction f, void *argument)
{
  global_State *g = G(L);
  lua_State *running = gcrefp(g->cur_L, lua_State);
  int32_t vmstate = g->vmstate;
  int status;
  lj_trace_abort(g);  /* A trace belongs to one stack. */
  status = lua_cpcall(L, f, argument);
  if (running)
    setgcref(g->cur_L, obj2gco(running));
  else
    setgcrefnull(g->cur_L);
  g->vmstate = vmstate;
  return status;
}

/* Whether the program has stopped the collector. Then idle time must not run it either. */
int yue_shim_gc_stopped(lua_State *L)
{
  return G(L)->gc.threshold >= LJ_MAX_MEM;
}

/* The main thread of L's VM, which identifies the VM. */
lua_State *yue_shim_main(lua_State *L)
{
  return mainthread(G(L));
}

/*
** Prepares a state for its next fiber: no values, and the globals of the main thread (setfenv(0, t) changes them).
** Returns 0 if it cannot be lent: C code of a fiber is in a call on it.
*/
int yue_shim_reset(lua_State *L)
{
  lua_State *main = mainthread(G(L));
  if (LJ_UNLIKELY(L->cframe != NULL))
    return 0;
  L->base = tvref(L->stack) + 1 + LJ_FR2;
  L->top = L->base;
  L->status = LUA_OK;
  setgcrefr(L->env, main->env);
  return 1;
}

/* -- Native stack --------------------------------------------------------- */

int yue_shim_low_stack(void)
{
  return current != NULL && (char *)__builtin_frame_address(0) < current->floor;
}

/* Raises. */
static int stack_overflow(lua_State *L)
{
  return luaL_error(L, "stack overflow (too many nested calls through C functions)");
}

/* Raises if little native stack is left. */
void yue_shim_check_stack(lua_State *L)
{
  if (LJ_UNLIKELY(yue_shim_low_stack()))
    stack_overflow(L);
}

/*
** Library functions that call Lua back from C nest on the native stack, which is small in a fiber. They are replaced in
** place: the function object keeps its identity, its environment and the number by which the JIT compiler knows it.
** coroutine.create and wrap are among them because each running coroutine keeps C frames on the stack of its resumer.
*/
#define GUARDED(_) \
  _(gsub) _(format) _(sort) _(load) _(dofile) _(require) _(create) _(wrap) _(module) _(ffi_call)

#define GUARD(name) \
  static lua_CFunction original_##name; \
  static int guarded_##name(lua_State *L) \
  { \
    if (LJ_UNLIKELY(yue_shim_low_stack())) \
      return stack_overflow(L); \
    return original_##name(L); \
  }
GUARDED(GUARD)

/* Patches the C function on top of the stack and pops it. Every VM of the process has the same originals. */
static void guard(lua_State *L, lua_CFunction *original, lua_CFunction guarded)
{
  cTValue *o = L->top-1;
  if (tvisfunc(o) && !isluafunc(funcV(o)) && funcV(o)->c.f != guarded) {
    __atomic_store_n(original, funcV(o)->c.f, __ATOMIC_RELAXED);
    funcV(o)->c.f = guarded;
  }
  lua_pop(L, 1);
}

static void guard_field(lua_State *L, const char *lib, const char *name, lua_CFunction *original, lua_CFunction guarded)
{
  lua_getfield(L, LUA_GLOBALSINDEX, lib);
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, name);
    guard(L, original, guarded);
  }
  lua_pop(L, 1);
}

/*
** Like LuaJIT's, for which a fiber's main function is the main thread: nil there. So a program cannot obtain the thread
** object of a state that serves another fiber afterwards, and use it as a key or resume it.
*/
static lua_CFunction original_running;
static int fiber_running(lua_State *L)
{
  if (current != NULL && current->root == L) {
    lua_pushnil(L);
    return 1;
  }
  return original_running(L);
}

/*
** Like LuaJIT's, but the line is written at once, so that the lines of several threads do not mix, nor those of fibers
** that wait in a __tostring.
*/
static lua_CFunction original_print;
static int whole_line_print(lua_State *L)
{
  ptrdiff_t i, count = L->top - L->base;
  cTValue *tv;
  int plain;
  SBuf *line;
  if (LJ_UNLIKELY(yue_shim_low_stack()))
    return stack_overflow(L);
  lua_getglobal(L, "tostring");
  tv = L->top-1;
  plain = tvisfunc(tv) && funcV(tv)->c.ffid == FF_tostring && !gcrefu(basemt_it(G(L), LJ_TNUMX));
  for (i = 0; i < count; i++) {
    cTValue *o = &L->base[i];
    if (tvisstr(o) && plain)
      continue;
    copyTV(L, L->top, L->base+count);
    copyTV(L, L->top+1, o);
    L->top += 2;
    lua_call(L, 1, 1);
    if (lua_tolstring(L, -1, NULL) == NULL)
      lj_err_caller(L, LJ_ERR_PRTOSTR);
    lua_replace(L, (int)i+1);
  }
  line = lj_buf_tmp_(L);  /* The VM's own buffer: nothing below calls Lua. */
  for (i = 0; i < count; i++) {
    if (i > 0)
      lj_buf_putb(line, '\t');
    lj_buf_putstr(line, strV(&L->base[i]));
  }
  lj_buf_putb(line, '\n');
  if (!yue_print_line(L, line->b, sbuflen(line)))
    fwrite(line->b, 1, sbuflen(line), stdout);
  return 0;
}

/* Flushes the buffers of Lua and Rust and exits at once: no VM is closed, because its fibers' frames are alive. */
static int os_exit(lua_State *L)
{
  int code = !lua_isboolean(L, 1) ? luaL_optint(L, 1, EXIT_SUCCESS) :
	     lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
  fflush(NULL);
  yue_flush_rust();
  _exit(code);
  return 0;
}

/*
** Replaces LuaJIT's, which calls system(). That ignores SIGINT and SIGQUIT in the whole process while the command runs,
** but here other loops run meanwhile and need these signals. The command starts with no signal blocked, and dies when
** nobody reads its output (Rust ignores SIGPIPE). Returns the status of waitpid, -1 if there is no shell.
*/
static int os_execute(lua_State *L)
{
  const char *command = luaL_optstring(L, 1, NULL);
  char *arguments[] = { "sh", "-c", (char *)command, NULL };
  posix_spawnattr_t attributes;
  sigset_t none, pipe;
  pid_t child;
  int status = -1;
  if (command == NULL) {  /* Is there a shell? */
    lua_pushinteger(L, access("/bin/sh", X_OK) == 0);
    return 1;
  }
  sigemptyset(&none);
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  if (posix_spawnattr_init(&attributes) == 0) {
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &pipe);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK|POSIX_SPAWN_SETSIGDEF);
    if (posix_spawn(&child, "/bin/sh", NULL, &attributes, arguments, environ) == 0) {
      while (waitpid(child, &status, 0) < 0) {
	if (errno != EINTR) {  /* SIGCHLD is ignored: nobody keeps the status. */
	  status = -1;
	  break;
	}
      }
    }
    posix_spawnattr_destroy(&attributes);
  }
  lua_pushinteger(L, status);
  return 1;
}

/* Installs all this in a fresh VM. Raises. */
int yue_shim_setup(lua_State *L)
{
  cTValue *mo;
  lua_getfield(L, LUA_GLOBALSINDEX, "require");
  lua_pushliteral(L, "ffi");
  lua_call(L, 1, 0);
  guard_field(L, "string", "gsub", &original_gsub, guarded_gsub);
  guard_field(L, "string", "format", &original_format, guarded_format);
  guard_field(L, "table", "sort", &original_sort, guarded_sort);
  guard_field(L, "coroutine", "create", &original_create, guarded_create);
  guard_field(L, "coroutine", "wrap", &original_wrap, guarded_wrap);
  guard_field(L, "coroutine", "running", &original_running, fiber_running);
  guard_field(L, "_G", "load", &original_load, guarded_load);
  guard_field(L, "_G", "dofile", &original_dofile, guarded_dofile);
  guard_field(L, "_G", "require", &original_require, guarded_require);
  guard_field(L, "_G", "print", &original_print, whole_line_print);
  guard_field(L, "_G", "module", &original_module, guarded_module);
  mo = lj_tab_getstr(tabref(basemt_it(G(L), LJ_TCDATA)), mmname_str(G(L), MM_call));
  if (mo) {
    copyTV(L, L->top, mo);
    incr_top(L);
    guard(L, &original_ffi_call, guarded_ffi_call);
  }
  lua_getfield(L, LUA_GLOBALSINDEX, "os");
  lua_pushcfunction(L, os_exit);
  lua_setfield(L, -2, "exit");
  lua_pushcfunction(L, os_execute);
  lua_setfield(L, -2, "execute");
  lua_pop(L, 1);
  return 0;
}
