/*
** Interrupts Lua code that never waits: at the end of a program, when its time has passed.
**
**   another thread        SIGURG ──▶ the thread that runs Lua: yue_shim_interrupt, in a signal handler
**   that thread, then     the next bytecode calls the hook, which raises an error in the fiber that was running
**
** A count hook is the only thing that LuaJIT checks between any two bytecodes, even in compiled code (which is built
** with LUAJIT_ENABLE_CHECKHOOK for it), and lua_sethook may be called in a signal handler on the VM's own thread. It is
** a property of the VM, not of a lua_State; so the hook checks whether the running fiber is the intended one. If it is
** not, the intended fiber has waited or ended, and no fiber has to be interrupted any more.
**
** The hook only raises: it cannot suspend (refusal in shim.c), and LuaJIT leaves the hook when the error unwinds it.
** C functions, finalizers and error handlers of xpcall are not interrupted: no hook is called in them.
**
** The same hook counts the steps of simulated programs, whose compiler is off: see yue_shim_watch_steps.
*/

#define LUA_CORE

#include "lua.h"
#include "lj_obj.h"
#include "shim.h"

/* The fiber of this thread to interrupt, and whether once or until it has unwound. */
static __thread YueFiber *victim;
static __thread int only_once;

static void (*raise_interruption)(lua_State *L);

/* Raises the error of an interruption; called with room for it. Set before the first VM runs. */
void yue_shim_set_interruption(void (*raise)(lua_State *L))
{
  __atomic_store_n(&raise_interruption, raise, __ATOMIC_RELAXED);
}

static void on_hook(lua_State *L, lua_Debug *ar);

/* The bytecodes after which this thread's VM calls the function, again and again; 0: it does not. */
static __thread int steps_every;
static __thread void (*report_steps)(lua_State *L);

static void on_steps(lua_State *L, lua_Debug *ar)
{
  (void)ar;
  if (G(L)->hookcstart != steps_every)
    lua_sethook(L, on_steps, LUA_MASKCOUNT, steps_every);
  report_steps(L);
}

/* Calls `report` after each `every` bytecodes of the VM, between two of them. It must not raise, nor wait. */
void yue_shim_watch_steps(lua_State *L, int every, void (*report)(lua_State *L))
{
  steps_every = every;
  report_steps = report;
  lua_sethook(L, on_steps, LUA_MASKCOUNT, every);
}

/* Lets the function be called before the next bytecode, if it is called at all. */
void yue_shim_report_steps(lua_State *L)
{
  if (steps_every != 0 && G(L)->hookf == on_steps)
    lua_sethook(L, on_steps, LUA_MASKCOUNT, 1);
}

static void disarm(lua_State *L)
{
  victim = NULL;
  if (G(L)->hookf != on_hook)
    return;
  if (steps_every != 0)
    lua_sethook(L, on_steps, LUA_MASKCOUNT, steps_every);
  else
    lua_sethook(L, NULL, 0, 0);
}

static void on_hook(lua_State *L, lua_Debug *ar)
{
  int meant = victim != NULL && victim == yue_shim_current();
  (void)ar;
  if (!meant || only_once)
    disarm(L);
  if (meant)
    __atomic_load_n(&raise_interruption, __ATOMIC_RELAXED)(L);
}

/* Marks the running fiber: see yue_shim_interrupt. */
void yue_shim_mark(size_t mark)
{
  YueFiber *f = yue_shim_current();
  if (f != NULL)
    f->mark = mark;
}

/*
** In a signal handler: interrupts the code that this thread runs, if it is Lua. The lowest bit of the argument says
** whether once. The bits above it are the mark of the fiber that is meant; 0: any fiber.
*/
void yue_shim_interrupt(size_t argument)
{
  YueFiber *f = yue_shim_current();
  size_t mark = argument >> 1;
  if (f == NULL || f->root->cframe == NULL || (mark != 0 && f->mark != mark))
    return;
  victim = f;
  only_once = (int)(argument & 1);
  /* Off first: if this very signal has cut the last change short, the tables are written anew. */
  lua_sethook(f->root, NULL, 0, 0);
  lua_sethook(f->root, on_hook, LUA_MASKCOUNT, 1);
}

/* The running fiber's outermost call has raised: an interruption ends here. */
void yue_shim_unwound(lua_State *L)
{
  if (LJ_UNLIKELY(victim != NULL))
    disarm(L);
}
