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
  if (f->inside) {
    global_State *g = G(f->root);
    setgcref(g->cur_L, obj2gco(f->inside));
    g->vmstate = f->saved_vmstate;
  }
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

/* -- Values --------------------------------------------------------------- */

/* Integral numbers up to 2^53 are integers on the wire, except minus zero. */
static void number_slot(double n, YueSlot *s)
{
  if (n >= -9007199254740992.0 && n <= 9007199254740992.0) {
    int64_t i = (int64_t)n;
    if ((double)i == n && (i != 0 || !signbit(n))) {
      s->kind = YUE_INTEGER;
      s->as.integer = i;
      return;
    }
  }
  s->kind = YUE_NUMBER;
  s->as.number = n;
}

static void fill_slot(cTValue *o, YueSlot *s)
{
  if (tvisstr(o)) {
    GCstr *str = strV(o);
    s->kind = YUE_STRING;
    s->length = str->len;
    s->as.pointer = strdata(str);
  } else if (tvisnum(o)) {
    number_slot(numV(o), s);
  } else if (tvisint(o)) {
    s->kind = YUE_INTEGER;
    s->as.integer = intV(o);
  } else if (tvistab(o)) {
    s->kind = YUE_TABLE;
    s->as.pointer = tabV(o);
  } else if (tvisnil(o)) {
    s->kind = YUE_NIL;
  } else if (tvisbool(o)) {
    s->kind = tvistrue(o) ? YUE_TRUE : YUE_FALSE;
  } else if (tvisfunc(o)) {
    s->kind = YUE_FUNCTION;
    s->as.pointer = funcV(o);
  } else if (tvisudata(o)) {
    s->kind = YUE_USERDATA;
    s->as.pointer = udataV(o);
  } else if (tviscdata(o)) {
    GCcdata *cd = cdataV(o);
    s->kind = cd->ctypeid == CTID_INT64 ? YUE_INTEGER : cd->ctypeid == CTID_UINT64 ? YUE_UNSIGNED : YUE_CDATA;
    if (s->kind != YUE_CDATA)
      s->as.integer = *(int64_t *)cdataptr(cd);
    if (s->kind == YUE_UNSIGNED && s->as.integer >= 0)
      s->kind = YUE_INTEGER;
  } else {
    /* cjson.null and the like are light userdata that are NULL; LuaJIT keeps such an address in two parts. */
    s->kind = tvisthread(o) ? YUE_THREAD : lightudlo(o->u64) == 0 ? YUE_NIL : YUE_LIGHT;
  }
}

/* The value at a positive stack index of the running function. Never raises, never allocates. */
void yue_shim_slot(lua_State *L, int index, YueSlot *s)
{
  cTValue *o = L->base + (index-1);
  if (o < L->top)
    fill_slot(o, s);
  else
    s->kind = YUE_NIL;
}

/* Never raises, never allocates; a table's contents must not change while it is being walked. */
void yue_shim_table(const GCtab *t, YueTable *shape)
{
  uint32_t i, leading = 0, count = 0;
  int sequence = 1;
  cTValue *array = tvref(t->array);
  Node *node = noderef(t->node);
  shape->metatable = tabref(t->metatable);
  if (t->asize > 0 && !tvisnil(&array[0])) {
    count++;
    sequence = 0;  /* Key 0. */
  }
  for (i = 1; i < t->asize && !tvisnil(&array[i]); i++)
    leading++;
  count += leading;
  for (; i < t->asize; i++) {
    if (!tvisnil(&array[i])) {
      count++;
      sequence = 0;  /* A hole before it. */
    }
  }
  if (t->hmask > 0 || !tvisnil(&node[0].val)) {
    double low = leading, high;
    uint32_t hashed = 0;
    for (i = 0; i <= t->hmask; i++)
      hashed += !tvisnil(&node[i].val);
    count += hashed;
    high = count;
    for (i = 0; sequence && hashed && i <= t->hmask; i++) {
      if (!tvisnil(&node[i].val)) {
        cTValue *k = &node[i].key;
        double n = tvisnum(k) ? numV(k) : tvisint(k) ? (double)intV(k) : 0;
        if (!(n > low && n <= high && n == floor(n)))
          sequence = 0;
      }
    }
  }
  shape->count = count;
  shape->sequence = (uint32_t)sequence;
}

/* Larger keys cannot be distinguished from their neighbours. */
#define WHOLE_MAX 9007199254740992.0

/* The largest key of a table whose keys are whole numbers above 0 (0 if it is empty); -1 if it has others. */
int64_t yue_shim_largest_key(const GCtab *t)
{
  int64_t largest = 0;
  uint32_t i;
  for (i = 0; i < t->asize; i++) {
    if (!tvisnil(arrayslot(t, i)))
      largest = i == 0 ? -1 : (int64_t)i;
    if (largest < 0)
      return -1;
  }
  for (i = 0; i <= t->hmask; i++) {
    Node *n = &noderef(t->node)[i];
    if (!tvisnil(&n->val)) {
      double key = tvisnum(&n->key) ? numV(&n->key) : tvisint(&n->key) ? (double)intV(&n->key) : 0;
      if (!(key >= 1 && key <= WHOLE_MAX && key == floor(key)))
	return -1;
      if ((int64_t)key > largest)
	largest = (int64_t)key;
    }
  }
  return largest;
}

/* Element `i` of a sequence. */
void yue_shim_item(const GCtab *t, uint32_t i, YueSlot *s)
{
  cTValue *o = lj_tab_getint((GCtab *)t, (int32_t)i);
  if (o)
    fill_slot(o, s);
  else
    s->kind = YUE_NIL;
}

/* The next pair; `cursor` begins at 0. Returns 0 at the end. */
int yue_shim_pair(const GCtab *t, uint32_t *cursor, YueSlot *key, YueSlot *value)
{
  uint32_t i = *cursor;
  for (; i < t->asize; i++) {
    cTValue *o = arrayslot(t, i);
    if (!tvisnil(o)) {
      key->kind = YUE_INTEGER;
      key->as.integer = i;
      fill_slot(o, value);
      *cursor = i+1;
      return 1;
    }
  }
  for (i -= t->asize; i <= t->hmask; i++) {
    Node *n = &noderef(t->node)[i];
    if (!tvisnil(&n->val)) {
      fill_slot(&n->key, key);
      fill_slot(&n->val, value);
      *cursor = t->asize+i+1;
      return 1;
    }
  }
  return 0;
}

/*
** Filling a map that a peer sent. LuaJIT hashes numbers without a secret, so a peer can choose keys that all fall into
** one chain, and each insertion would walk all of it. So the walks are counted here, and a map is refused when one
** chain, or all walks of a message together, grow beyond what honest keys cause. Honest keys can be bad, too: the
** hashes of 1024 consecutive multiples of 16 near 2^47 (addresses, say) fill chains of 512, and timestamps in
** milliseconds fill chains of 128 at every size.
*/
#define CHAIN_MAX 1024
/* The steps that each key adds to a message's allowance. At every size, the worst honest keys average 65 or less. */
#define STEPS_PER_KEY 128
/* The maximum allowance: the budget's counter holds no more. */
#define STEPS_MAX 0x40000000u

/* The node at which the search for a key begins: hashkey in lj_tab.c. */
static Node *main_node(const GCtab *t, cTValue *key)
{
  if (tvisstr(key))
    return hashstr(t, strV(key));
  if (tvisnum(key))
    return hashnum(t, key);
  if (tvisbool(key))
    return hashmask(t, boolV(key));
  return hashgcref(t, key->gcr);
}

/*
** table[key] = value, for the three values on top of the stack; the latter two are popped. A nil value is not stored.
** `steps` is the number of nodes that the rest of the message may walk. The table should have been made with room for
** all its pairs, so that it is never rehashed. Raises when out of memory.
*/
int yue_shim_map_set(lua_State *L, uint32_t *steps)
{
  GCtab *t = tabV(L->top-3);
  cTValue *key = L->top-2, *value = L->top-1;
  TValue k, *slot = NULL;
  uint32_t left = *steps < STEPS_MAX ? *steps + STEPS_PER_KEY : *steps;
  uint32_t walked = 0;
  if (tvisnil(key) || (tvisnum(key) && tvisnan(key)))
    return YUE_MAP_BAD_KEY;
  copyTV(L, &k, key);
  if (tvisint(key)) {  /* Only where LuaJIT has integers; the hash part has doubles everywhere. */
    k.n = (lua_Number)intV(key);
  }
  if (tvisnum(&k)) {
    int64_t wide;
    int32_t i;
    if (lj_num2int_check(numV(&k), wide, i)) {
      k.n = (lua_Number)i;  /* Without the sign of zero. */
      if (inarray(t, i))
	slot = arrayslot(t, i);
    }
  }
  if (slot == NULL) {
    Node *home = main_node(t, &k), *n = home;
    do {
      if (n->key.u64 == k.u64) {
	slot = &n->val;
	break;
      }
      walked++;
    } while ((n = nextnode(n)) != NULL);
    if (slot == NULL && !tvisnil(&home->val)) {
      /* If another chain's key sits there, it is moved, and the insertion walks that chain to find what precedes it. */
      for (n = main_node(t, &home->key); n != NULL && n != home; n = nextnode(n))
	walked++;
    }
    if (walked > CHAIN_MAX || walked > left)
      return YUE_MAP_CROWDED;
  }
  *steps = left - walked;
  if (slot == NULL && !tvisnil(value))
    slot = lj_tab_newkey(L, t, &k);
  if (slot != NULL) {
    t->nomm = 0;
    copyTV(L, slot, L->top-1);
    lj_gc_anybarriert(L, t);
  }
  L->top -= 2;
  return YUE_MAP_SET;
}

/* Whether `object` is one of the table's values. Never raises. */
int yue_shim_has_value(const GCtab *t, const void *object)
{
  uint32_t i;
  for (i = 0; i < t->asize; i++) {
    cTValue *o = arrayslot(t, i);
    if (tvisgcv(o) && (const void *)gcV(o) == object)
      return 1;
  }
  for (i = 0; i <= t->hmask; i++) {
    cTValue *o = &noderef(t->node)[i].val;
    if (tvisgcv(o) && (const void *)gcV(o) == object)
      return 1;
  }
  return 0;
}

/* The payload of a userdata, its length, and its metatable (may be NULL). */
void *yue_shim_userdata(const GCudata *u, const void **metatable, uint32_t *length)
{
  *length = u->len;
  *metatable = tabref(u->metatable);
  return uddata((GCudata *)u);
}

/* Pushes the collectable object `o` of the given kind. It must be reachable. Needs one free slot; never raises. */
void yue_shim_push_object(lua_State *L, const void *o, uint32_t kind)
{
  setgcV(L, L->top, (GCobj *)o, kind == YUE_FUNCTION ? LJ_TFUNC : kind == YUE_TABLE ? LJ_TTAB : LJ_TUDATA);
  L->top++;
}

/* Pushes an int64_t or uint64_t cdata. Raises when out of memory. */
void yue_shim_push_int64(lua_State *L, int64_t value, int is_unsigned)
{
  GCcdata *cd;
  lj_gc_check(L);
  cd = lj_cdata_new_(L, is_unsigned ? CTID_UINT64 : CTID_INT64, 8);
  *(int64_t *)cdataptr(cd) = value;
  setcdataV(L, L->top, cd);
  incr_top(L);
}

/* Anchors a function in the array part of a table, without allocating. 0 if the array has no such slot. */
int yue_shim_anchor(lua_State *L, GCtab *t, uint32_t index, const void *function)
{
  TValue *slot;
  if (index >= t->asize)
    return 0;
  slot = arrayslot(t, index);
  if (function)
    setgcV(L, slot, (GCobj *)function, LJ_TFUNC);
  else
    setnilV(slot);
  lj_gc_anybarriert(L, t);
  return 1;
}

/* Copies all anchors of a table to a larger one. Never raises. */
void yue_shim_copy_anchors(lua_State *L, const GCtab *from, GCtab *to)
{
  uint32_t i;
  for (i = 0; i < from->asize && i < to->asize; i++)
    copyTV(L, arrayslot(to, i), arrayslot(from, i));
  lj_gc_anybarriert(L, to);
}
