/*
** The location of a Lua fiber: its traceback, for listings and for the watchdog.
**
** Two cases, which have little in common:
**
**   parked    The fiber waits in one of yue's functions; all frames are written back. Lua's own debug calls work, and
**             none of those used here allocates, raises, or changes the stack.
**
**   running   A signal handler asks, between any two instructions. In the interpreter the current frame and bytecode
**             are in machine registers; in compiled code they are nowhere, and the trace's first line must do. The
**             Lua stack may be about to move. So every pointer that is followed is checked first, and memory that may
**             be gone is read through the kernel (process_vm_readv), which returns an error where a read would crash.
**
** Nothing here allocates. The text is cut where the buffer ends.
*/

#define LUA_CORE
#define _GNU_SOURCE

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/uio.h>
#include <ucontext.h>

#include "lua.h"
#include "lauxlib.h"
#include "lj_obj.h"
#include "lj_frame.h"
#include "lj_bc.h"
#include "lj_debug.h"
#include "lj_jit.h"
#include "lj_dispatch.h"
#include "shim.h"

#define LEVELS_MAX 24      /* Frames that a report has. */
#define COROUTINES_MAX 8   /* Coroutines in each other. */

typedef struct Text {
  char *at, *end;
} Text;

static void add(Text *t, const char *s)
{
  while (*s && t->at < t->end)
    *t->at++ = *s++;
}

static void add_bytes(Text *t, const char *s, size_t length)
{
  for (; length > 0 && t->at < t->end; length--, s++)
    *t->at++ = *s < 32 ? '?' : *s;  /* A peer has chosen it. */
}

/* Appends `handler of NAME, called by ADDRESS`, if the fiber is in one. */
static void add_work(Text *t, const YueFiber *f)
{
  if (f->work != NULL) {
    add(t, "handler of ");
    add_bytes(t, f->work, f->work_length);
    add(t, ", called by ");
    add_bytes(t, f->client, f->client_length);
  }
}

size_t yue_shim_work(YueFiber *f, char *out, size_t room)
{
  Text t = { out, out + room };
  add_work(&t, f);
  return (size_t)(t.at - out);
}

static void add_number(Text *t, unsigned long n)
{
  char digits[24];
  char *d = digits + sizeof(digits);
  *--d = 0;
  do { *--d = (char)('0' + n % 10); n /= 10; } while (n);
  add(t, d);
}

/* -- Parked ---------------------------------------------------------------- */

static void add_level(Text *t, lua_State *L, lua_Debug *ar)
{
  lua_getinfo(L, "Snl", ar);
  add(t, "  ");
  if (ar->currentline > 0 || *ar->what != 'C') {
    add(t, ar->short_src);
    add(t, ":");
    add_number(t, (unsigned long)(ar->currentline > 0 ? ar->currentline : ar->linedefined));
    add(t, ": ");
  }
  if (*ar->what == 'C')
    add(t, "C function ");
  else
    add(t, *ar->what == 'm' ? "main chunk" : "function ");
  if (*ar->what != 'm' && (ar->name || *ar->what == 'C')) {
    add(t, "'");
    add(t, ar->name ? ar->name : "?");
    add(t, "'");
  } else if (*ar->what != 'm') {  /* Called from C: nobody named it. */
    add(t, "<");
    add(t, ar->short_src);
    add(t, ":");
    add_number(t, (unsigned long)ar->linedefined);
    add(t, ">");
  }
  add(t, "\n");
}

/* The traceback of a parked fiber, innermost coroutine first; returns its length in bytes. Never raises. */
size_t yue_shim_traceback(YueFiber *f, char *out, size_t room)
{
  Text t = { out, out + room };
  lua_State *chain[COROUTINES_MAX];
  int count = 0;
  lua_State *L = f->root;
  if (L->cframe == NULL)  /* Between two calls. */
    return 0;
  while (L != NULL && count < COROUTINES_MAX) {
    chain[count++] = L;
    L = L == f->inside ? NULL : yue_shim_resumed_by(L);
  }
  while (count-- > 0) {
    lua_Debug ar;
    int level;
    for (level = 0; level < LEVELS_MAX && lua_getstack(chain[count], level, &ar); level++)
      add_level(&t, chain[count], &ar);
    if (level == LEVELS_MAX)
      add(&t, "  ...\n");
    if (count > 0)
      add(&t, "  resumed by\n");
  }
  return (size_t)(t.at - out);
}

/* Pushes copies of the first values of the function that a fiber waits in; returns their number. There must be room. */
int yue_shim_arguments(YueFiber *f, lua_State *to, int count)
{
  lua_State *L = f->inside;
  int i;
  if (f->root->cframe == NULL || L == NULL)
    return 0;
  for (i = 0; i < count && L->base+i < L->top; i++) {
    copyTV(to, to->top, L->base+i);
    to->top++;
  }
  return i;
}

/* Pushes the first argument of each call, in a parked fiber, of the function at index `fn` of `to`; returns their
** number, at most `count`. There must be room.
*/
int yue_shim_calls_of(YueFiber *f, lua_State *to, int fn, int count)
{
  cTValue *wanted = to->base + fn-1;
  lua_State *L = f->root;
  int pushed = 0;
  if (L->cframe == NULL || !tvisfunc(wanted))
    return 0;
  while (L != NULL) {
    lua_Debug ar;
    int level;
    for (level = 0; level < LEVELS_MAX && pushed < count && lua_getstack(L, level, &ar); level++) {
      cTValue *frame = tvref(L->stack) + (ar.i_ci & 0xffff);
      if (frame_func(frame) == funcV(wanted)) {
        copyTV(to, to->top, frame+1);
        to->top++;
        pushed++;
      }
    }
    L = L == f->inside ? NULL : yue_shim_resumed_by(L);
  }
  return pushed;
}

static void add_place(Text *t, GCproto *pt, long line)
{
  const char *name = proto_chunknamestr(pt);
  add(t, *name == '@' || *name == '=' ? name+1 : "[string]");
  if (line > 0) {  /* A main chunk begins at line 0. */
    add(t, ":");
    add_number(t, (unsigned long)line);
  }
}

/* Chunks whose names begin with "=[" are the embedder's own: the prelude. */
static int is_embedders(GCproto *pt)
{
  const char *name = proto_chunknamestr(pt);
  return name[0] == '=' && name[1] == '[';
}

/* The outermost function of the program in a parked fiber, on its own lua_State; returns the length of its location in
** bytes. A function that has made a tail call has no frame any more, but the function of the prelude that called it
** has it as its first argument. One walk from the top, because frames are linked that way only. Never raises.
*/
size_t yue_shim_origin(YueFiber *f, char *out, size_t room)
{
  Text t = { out, out + room };
  lua_State *L = f->root;
  cTValue *frame, *bottom = tvref(L->stack)+LJ_FR2;
  GCproto *outermost = NULL;
  if (L->cframe == NULL)  /* Between two calls. */
    return 0;
  for (frame = L->base-1; frame > bottom; ) {
    if (frame_gc(frame) != obj2gco(L) && isluafunc(frame_func(frame))) {  /* LuaJIT pushes dummies in between. */
      GCproto *pt = funcproto(frame_func(frame));
      cTValue *first = frame+1;
      if (is_embedders(pt) && pt->numparams > 0 && tvisfunc(first) && isluafunc(funcV(first)))
	pt = funcproto(funcV(first));
      if (!is_embedders(pt))
	outermost = pt;
    }
    frame = frame_islua(frame) ? frame_prevl(frame) : frame_prevd(frame);
  }
  if (outermost != NULL)
    add_place(&t, outermost, (long)outermost->firstline);
  return (size_t)(t.at - out);
}

/* -- Running --------------------------------------------------------------- */

/* Copies memory that may be unmapped. */
static int peek(void *to, const void *from, size_t bytes)
{
  struct iovec local = { to, bytes }, remote = { (void *)from, bytes };
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)bytes;
}

/* A frame, read safely: its function and its link. */
typedef struct Frame {
  TValue slots[2];  /* [func] [PC/delta/ft] */
  const TValue *at; /* the second of them, where LuaJIT's frame pointers point */
  GCproto *pt;      /* NULL for a C function */
  int dummy;        /* neither: LuaJIT pushes some in between */
} Frame;

/* The prototype of a Lua function, or NULL if there is none where it should be. */
static GCproto *read_proto(const GCfuncL *fn)
{
  GCproto *p = (GCproto *)(mref(fn->pc, char) - sizeof(GCproto));
  GCproto pt;
  return peek(&pt, p, sizeof(pt)) && pt.gct == (uint8_t)~LJ_TPROTO ? p : NULL;
}

/* Whether there is a frame at `at`, in this stack. */
static int read_frame(Frame *f, const TValue *at, const TValue *lowest, const TValue *highest)
{
  GCfuncL fn;
  if (((uintptr_t)at & 7) || at <= lowest+LJ_FR2 || at > highest || !peek(f->slots, at-1, sizeof(f->slots)))
    return 0;
  f->at = at;
  f->pt = NULL;
  f->dummy = 0;
  if (!peek(&fn, gcval(&f->slots[0]), sizeof(fn)))
    return 0;
  if (fn.gct == (uint8_t)~LJ_TTHREAD)
    return (f->dummy = 1);
  if (fn.gct != (uint8_t)~LJ_TFUNC)
    return 0;
  return fn.ffid != FF_LUA || (f->pt = read_proto(&fn)) != NULL;
}

/* The function of the program that a function of the prelude has as its first argument, and calls; NULL if there is
** none. */
static GCproto *read_called(const Frame *f)
{
  GCfuncL fn;
  GCproto *pt;
  TValue first;
  if (f->pt == NULL || !is_embedders(f->pt) || f->pt->numparams == 0)
    return NULL;
  if (!peek(&first, f->at+1, sizeof(first)) || !tvisfunc(&first) || !peek(&fn, gcval(&first), sizeof(fn)))
    return NULL;
  if (fn.gct != (uint8_t)~LJ_TFUNC || fn.ffid != FF_LUA || (pt = read_proto(&fn)) == NULL || is_embedders(pt))
    return NULL;
  return pt;
}

static int is_pc_of(const GCproto *pt, const BCIns *pc)
{
  return pt && pc > proto_bc(pt) && pc <= proto_bc(pt) + pt->sizebc;
}

/* The name by which a function was called: the instruction before `pc`, in the function `pt`, is the call. Reads the
** prototype alone, which lives as long as the function that is in the stack. */
static const char *called_as(GCproto *pt, const BCIns *pc)
{
  const char *name = NULL;
  if (is_pc_of(pt, pc) && bcmode_mm(bc_op(pc[-1])) == MM_call) {
    BCReg slot = bc_a(pc[-1]) - (bc_op(pc[-1]) == BC_ITERC ? 3 : 0);
    if (lj_debug_slotname(pt, pc-1, slot, &name) == NULL)
      name = NULL;
  }
  return name;
}

/* Adds one line of the traceback; `pc` is the address behind the instruction being executed, if known. */
static void add_frame(Text *t, GCproto *pt, const BCIns *pc, const char *name, const char *note)
{
  int known = is_pc_of(pt, pc);
  add(t, "  ");
  if (pt == NULL) {
    add(t, "C function");
  } else {
    add_place(t, pt, known ? (long)lj_debug_line(pt, proto_bcpos(pt, pc) - 1) : (long)pt->firstline);
    add(t, pt->firstline == 0 ? ": main chunk" : ": function");
  }
  if (name != NULL) {
    add(t, " '");
    add(t, name);
    add(t, "'");
  } else if (known && pt->firstline > 0) {
    add(t, " <");
    add_place(t, pt, (long)pt->firstline);
    add(t, ">");
  }
  add(t, note);
  add(t, pt != NULL && !known && pt->firstline > 0 ? " (it begins there)\n" : "\n");
}

/* Adds the frames from one down to the bottom. `note` is about the first. */
static void add_frames(Text *t, Frame *f, const BCIns *pc, const char *note, const TValue *lowest,
		       const TValue *highest)
{
  GCproto *pt = f->pt;  /* The function to report once it is known how it was called. */
  GCproto *shown = NULL;  /* The last function of the program that was reported. */
  GCproto *called;
  int level, reported = f->dummy;
  for (level = 0; level < LEVELS_MAX; level++) {
    const TValue *below = NULL;
    const BCIns *from = NULL;
    TValue link = f->slots[1];
    BCIns call;
    if (frame_islua(&link)) {
      from = frame_pc(&link);
      if (!((uintptr_t)from & 3) && peek(&call, from-1, sizeof(call)))
	below = f->at - (1+LJ_FR2+bc_a(call));
    } else {
      below = (const TValue *)((const char *)f->at - frame_sized(&link));
    }
    if (below == NULL || below >= f->at || !read_frame(f, below, lowest, highest))
      below = NULL;
    if (below != NULL && frame_isvarg(&link))  /* It is the frame of the same call, as its caller made it. */
      continue;
    if (!reported)
      add_frame(t, pt, pc, below != NULL && from != NULL ? called_as(f->pt, from) : NULL, note);
    note = "";
    if (!reported && pt != NULL && !is_embedders(pt))
      shown = pt;
    if (below == NULL)
      return;
    pt = f->pt;
    pc = from;
    reported = f->dummy;
    called = read_called(f);
    if (called != NULL && called != shown) {  /* Its frame has gone. */
      add_frame(t, called, NULL, NULL, ", which ended in a tail call");
      shown = called;
    }
  }
  add(t, "  ...\n");
}

#if defined(__x86_64__)
#define REGISTER_BASE(u) ((const TValue *)(u)->uc_mcontext.gregs[REG_RDX])
#define REGISTER_PC(u) ((const BCIns *)(u)->uc_mcontext.gregs[REG_RBX])
#elif defined(__aarch64__)
#define REGISTER_BASE(u) ((const TValue *)(u)->uc_mcontext.regs[19])
#define REGISTER_PC(u) ((const BCIns *)(u)->uc_mcontext.regs[21])
#else
#define REGISTER_BASE(u) ((const TValue *)NULL)
#define REGISTER_PC(u) ((const BCIns *)NULL)
#endif

#define IN_TRACE ", compiled (the first line of its trace)"

/* In compiled code: adds the line on which the trace begins, and the frames below those that it has inlined. */
static void add_trace(Text *t, global_State *g, lua_State *L, TraceNo number)
{
  jit_State *J = G2J(g);
  const TValue *lowest = tvref(L->stack), *highest = tvref(L->maxstack);
  GCtrace *T;
  GCproto *pt;
  Frame f;
  if (number >= J->sizetrace || (T = traceref(J, number)) == NULL)
    return;
  pt = &gcref(T->startpt)->pt;
  if (tvref(g->jit_base) != NULL && read_frame(&f, tvref(g->jit_base)-1, lowest, highest) && f.pt == pt) {
    /* It is the trace's own frame. */
    add_frames(t, &f, mref(T->startpc, const BCIns)+1, IN_TRACE, lowest, highest);
  } else {
    add_frame(t, pt, mref(T->startpc, const BCIns)+1, NULL, IN_TRACE);
  }
}

/* The bytecode address that the interpreter saved before it called a function in C. Such a function may use the
** interpreter's registers for other values.
*/
static const BCIns *saved_pc(lua_State *L)
{
  MRef pc;
  if (L->cframe == NULL || !peek(&pc, (char *)cframe_raw(L->cframe) + CFRAME_OFS_PC, sizeof(pc)))
    return NULL;
  return mref(pc, const BCIns);
}

/* In the interpreter, a C function, the collector or the compiler. */
static void add_interpreted(Text *t, lua_State *L, ucontext_t *u)
{
  const TValue *lowest = tvref(L->stack), *highest = tvref(L->maxstack);
  const BCIns *pc = REGISTER_PC(u);
  Frame f;
  /* In the interpreter itself. */
  if (read_frame(&f, REGISTER_BASE(u)-1, lowest, highest) && is_pc_of(f.pt, pc)) {
    add_frames(t, &f, pc, "", lowest, highest);
    return;
  }
  /* In a function that it called. */
  if (read_frame(&f, L->base-1, lowest, highest))
    add_frames(t, &f, is_pc_of(f.pt, pc) ? pc : saved_pc(L), "", lowest, highest);
}

/* The location of the calling thread's fiber; called in a signal handler. Returns the length of the text in bytes. */
size_t yue_shim_where(void *context, unsigned char *out, size_t room)
{
  Text t = { (char *)out, (char *)out + room };
  YueFiber *f = yue_shim_current();
  global_State *g;
  lua_State *L;
  int32_t state;
  char *frames;
  if (f == NULL || f->root->cframe == NULL)
    return 0;
  g = G(f->root);
  L = gcrefp(g->cur_L, lua_State);
  if (L == NULL)
    return 0;
  add(&t, "Lua:");
  if (f->work != NULL)
    add(&t, " ");
  add_work(&t, f);
  add(&t, "\n");
  frames = t.at;
  state = g->vmstate;
  if (state > 0)
    add_trace(&t, g, L, (TraceNo)state);
  else
    add_interpreted(&t, L, (ucontext_t *)context);
  if (t.at == frames)
    add(&t, "  in the midst of a call or a return, where no frame can be read\n");
  return (size_t)(t.at - (char *)out);
}
