/*
** Makes a fresh VM of a simulation a function of a seed.
**
** lua_newstate has taken random numbers from the system. They decide in which chain of the table of strings a string
** is, and the ids of strings, by which tables hash them: so the order of `pairs`. This replaces the numbers, and hashes
** anew the few strings that exist by then: names of metamethods, reserved words, messages.
*/
#include <string.h>
#include "lua.h"
#include "lj_obj.h"
#include "lj_gc.h"
#include "lj_str.h"
#include "lj_tab.h"
#include "lj_prng.h"
#include "shim.h"

/* Strings in a fresh VM; there are some sixty. */
#define STRINGS_MAX 512

/* Takes all strings out of the table, in the order of their addresses. Returns their number, or -1. */
static int take_strings(global_State *g, GCstr **all)
{
  MSize i, count = 0;
  if (g->str.num > STRINGS_MAX || g->str.second) return -1;
  for (i = 0; i <= g->str.mask; i++) {
    GCobj *o = gcref(g->str.tab[i]);
    for (; o; o = gcnext(o)) {
      MSize at = count++;
      for (; at > 0 && all[at-1] > gco2str(o); at--) all[at] = all[at-1];
      all[at] = gco2str(o);
    }
  }
  memset(g->str.tab, 0, (g->str.mask+1)*sizeof(GCRef));
  g->str.num = 0;
  return (int)count;
}

/* Puts a string into the table, by its hash. */
static void put_string(global_State *g, GCstr *s)
{
  GCRef *chain = &g->str.tab[s->hash & g->str.mask];
  setgcrefr(s->nextgc, *chain);
  setgcref(*chain, obj2gco(s));
  g->str.num++;
}

/* Called once, on the main state, before the libraries are opened. Raises only without memory. Returns 0 if LuaJIT is
** not as it is expected to be. */
int yue_shim_reseed(lua_State *L, const uint64_t *seed)
{
  global_State *g = G(L);
  GCstr *old[STRINGS_MAX], *made[STRINGS_MAX];
  int i, count = take_strings(g, old);
  if (count < 0) return 0;
  for (i = 0; i < 4; i++) g->prng.u[i] = seed[i] | ((uint64_t)1 << 40);  /* The generator needs some bits. */
  g->str.seed = seed[4];
  g->str.id = 0;
  g->str.idreseed = 0;
  for (i = 0; i < count; i++) {
    made[i] = lj_str_new(L, strdata(old[i]), old[i]->len);
    old[i]->hash = made[i]->hash;
    old[i]->sid = made[i]->sid;
  }
  if (take_strings(g, made) != count) return 0;
  for (i = 0; i < count; i++) {
    lj_mem_free(g, made[i], lj_str_size(made[i]->len));
    put_string(g, old[i]);
  }
#if LJ_HASFFI
  {  /* The one table with a key that is a string: the finalizers of cdata. */
    GCtab *fin = tabref(g->gcroot[GCROOT_FFI_FIN]);
    lj_tab_resize(L, fin, fin->asize, fin->hmask ? lj_fls(fin->hmask)+1 : 0);
  }
#endif
  return 1;
}
