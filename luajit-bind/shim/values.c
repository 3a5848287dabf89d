/*
** Lua values as the codecs see them: flattened for the encoders, and tables that the decoders fill.
**
** The encoders walk tables by pointer, which raises nothing and allocates nothing. The functions for decoders allocate,
** and may raise a Lua error (out of memory); they say so.
*/

#define LUA_CORE

#include <math.h>
#include <string.h>

#include "lua.h"
#include "lj_obj.h"
#include "lj_gc.h"
#include "lj_err.h"
#include "lj_str.h"
#include "lj_tab.h"
#include "lj_state.h"
#include "lj_ctype.h"
#include "lj_cdata.h"
#include "shim.h"

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

/* table[key] = value, as yue_shim_map_set describes it. */
static int map_put(lua_State *L, GCtab *t, cTValue *key, cTValue *value, uint32_t *steps)
{
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
    copyTV(L, slot, value);
    lj_gc_anybarriert(L, t);
  }
  return YUE_MAP_SET;
}

/*
** table[key] = value, for the three values on top of the stack; the latter two are popped. A nil value is not stored.
** `steps` is the number of nodes that the rest of the message may walk. The table should have been made with room for
** all its pairs, so that it is never rehashed. Raises when out of memory.
*/
int yue_shim_map_set(lua_State *L, uint32_t *steps)
{
  int outcome = map_put(L, tabV(L->top-3), L->top-2, L->top-1, steps);
  if (outcome == YUE_MAP_SET)
    L->top -= 2;
  return outcome;
}

/*
** Moves `pairs` keys and values from the top of the stack into the table below them, or, if `is_begun` is 0, into a new
** table with the metatable `mark` (NULL for none), which is left on top. Needs one free slot. Raises when out of
** memory.
*/
int yue_shim_collect_map(lua_State *L, int is_begun, uint32_t pairs, const void *mark, uint32_t *steps)
{
  TValue *first;
  GCtab *t;
  uint32_t i;
  if (is_begun) {
    t = tabV(L->top-2*pairs-1);
  } else {
    lj_gc_check(L);
    t = lj_tab_new_ah(L, 0, (int32_t)pairs);
    setgcrefp(t->metatable, mark);
    /* The table is anchored above the pairs, which stay anchored where they are. */
    settabV(L, L->top, t);
    incr_top(L);
  }
  first = L->top - 2*pairs - !is_begun;
  for (i = 0; i < pairs; i++) {
    int outcome = map_put(L, t, first+2*i, first+2*i+1, steps);
    if (outcome != YUE_MAP_SET)
      return outcome;
  }
  if (!is_begun)
    settabV(L, first++, t);
  L->top = first;
  return YUE_MAP_SET;
}

/* Replaces `count` values on top of the stack by a new sequence of them with the metatable `mark`. Raises likewise. */
void yue_shim_collect_array(lua_State *L, uint32_t count, const void *mark)
{
  GCtab *t;
  TValue *first;
  lj_gc_check(L);
  t = lj_tab_new_ah(L, (int32_t)count, 0);
  setgcrefp(t->metatable, mark);
  first = L->top - count;
  if (count)
    memcpy(arrayslot(t, 1), first, count * sizeof(TValue));
  settabV(L, first, t);
  L->top = first+1;
}

/* Moves `count` values from the top of the stack to the end of the sequence below them. Raises likewise. */
void yue_shim_append(lua_State *L, uint32_t length, uint32_t count)
{
  GCtab *t = tabV(L->top-count-1);
  if (length + count >= t->asize)
    lj_tab_reasize(L, t, 2*length + count);
  memcpy(arrayslot(t, length+1), L->top-count, count * sizeof(TValue));
  lj_gc_anybarriert(L, t);
  L->top -= count;
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
