/*
** The shim's interface to the Rust side (src/shim.rs). Keep the two in step: the structures are shared memory.
*/
#ifndef YUE_SHIM_H
#define YUE_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include "lua.h"

/* The state of a running fiber; one per native fiber that runs Lua, on its stack. */
typedef struct YueFiber {
  lua_State *root;      /* the fiber's own lua_State */
  lua_State *inside;    /* the lua_State whose innermost C function is ours and may suspend, or NULL */
  ptrdiff_t inside_at;  /* ... and that function's frame, as an offset into the Lua stack */
  char *floor;          /* native stack address below which C must not call Lua back any more */
  int32_t saved_vmstate; /* saved over a switch */
  const char *work;     /* the handler that the fiber is in, and its caller, for reports; NULL outside of handlers */
  size_t work_length;
  const char *client;
  size_t client_length;
  size_t mark;          /* tells it from other fibers when one is to be interrupted; 0: none */
} YueFiber;

/* One Lua value, in the form for the encoder. */
typedef struct YueSlot {
  uint32_t kind;
  uint32_t length; /* strings */
  union {
    int64_t integer;
    double number;
    const void *pointer;
  } as;
} YueSlot;

enum {
  YUE_NIL, YUE_FALSE, YUE_TRUE, YUE_INTEGER, YUE_UNSIGNED, YUE_NUMBER, YUE_STRING, YUE_TABLE, YUE_FUNCTION,
  YUE_USERDATA, YUE_CDATA, YUE_THREAD, YUE_LIGHT
};

/* Rust's service to the shim: writes the bytes that Rust's standard output has buffered (src/vm.rs). */
void yue_flush_rust(void);

/* Writes a line of `print`, and may suspend the fiber, if Rust has set a hook; returns 0 if not (src/setup.rs). */
int yue_print_line(lua_State *L, const char *line, size_t length);

/* The results of yue_shim_map_set. */
enum { YUE_MAP_SET, YUE_MAP_BAD_KEY, YUE_MAP_CROWDED };

/* Shared by the shim's own files. */
YueFiber *yue_shim_current(void);
lua_State *yue_shim_resumed_by(lua_State *L);

/* A table's shape. `count` is the number of pairs; `sequence` says that the keys are exactly 1..count. */
typedef struct YueTable {
  const void *metatable;
  uint32_t count;
  uint32_t sequence;
} YueTable;

#endif
