/*
** The unwinder's knowledge of compiled code; included before each of LuaJIT's own files (build.rs). An error that is
** raised in a trace, such as one about missing memory, unwinds through it, so LuaJIT registers unwind tables for each
** area of machine code.
**
** LuaJIT passes the beginning of a section: a common entry (CIE), and the entry of the code (FDE) behind it. That is
** what libgcc takes. LLVM's libunwind, which musl systems and Zig link, takes the address of the FDE alone, and ignores
** a section: an error would then meet no frame and end the process. (LuaJIT does the same for macOS.)
*/

#if !defined(YUE_UNWIND_H) && !defined(__ASSEMBLER__)
#define YUE_UNWIND_H

extern void __register_frame(const void *);
extern void __deregister_frame(const void *);

/* A function that only LLVM's libunwind has. */
extern void __unw_add_dynamic_fde(__UINTPTR_TYPE__) __attribute__((weak));

static inline const void *yue_unwind_entry(const void *section)
{
  /* A CIE begins with its length, without the four bytes of that. */
  return __unw_add_dynamic_fde ? (const char *)section + 4 + *(const __UINT32_TYPE__ *)section : section;
}

static inline void yue_register_frame(const void *section)
{
  __register_frame(yue_unwind_entry(section));
}

static inline void yue_deregister_frame(const void *section)
{
  __deregister_frame(yue_unwind_entry(section));
}

#define __register_frame yue_register_frame
#define __deregister_frame yue_deregister_frame

#endif
