/* A PKCS#11 module that stands before another one (MODULE) and does one thing wrong, chosen when it is built:
 *
 *   FAULT_LOST_ONCE  the first decryption finds its session gone; what comes after works
 *   FAULT_LOST       every decryption finds the token removed
 *   FAULT_BROKEN     nothing is encrypted or decrypted any more
 *   FAULT_HANGS      decryption never returns
 *   FAULT_LAST_TRY   the token says that one more wrong PIN locks it
 *   FAULT_OWN_IV     the device makes GCM's nonce itself, as many do in FIPS mode, and writes it over the caller's
 *
 * Each login adds a byte to the file LOGINS. The order of functions is that of CK_FUNCTION_LIST (PKCS#11 v2.40, 3.6).
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong;
typedef ulong (*any)(void);

enum { GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, LOGIN = 18, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT = 34, FUNCTIONS = 68 };

struct list { unsigned char version[2]; any at[FUNCTIONS]; };
struct mechanism { ulong kind; unsigned char **parameter; ulong length; };

static struct list real, ours;

static ulong login(ulong session, ulong user, void *pin, ulong length) {
    FILE *file = fopen(LOGINS, "a");
    if (file) { fputc('x', file); fclose(file); }
    return ((ulong (*)(ulong, ulong, void *, ulong))real.at[LOGIN])(session, user, pin, length);
}

#ifdef FAULT_LAST_TRY
static ulong token_info(ulong slot, unsigned char *info) {
    ulong done = ((ulong (*)(ulong, unsigned char *))real.at[GET_TOKEN_INFO])(slot, info);
    ulong flags;
    /* label 32, manufacturer 32, model 16, serial 16, then the flags */
    memcpy(&flags, info + 96, sizeof flags);
    flags |= 0x00020000UL;
    memcpy(info + 96, &flags, sizeof flags);
    return done;
}
#endif

#if defined(FAULT_LOST_ONCE) || defined(FAULT_LOST) || defined(FAULT_BROKEN) || defined(FAULT_HANGS)
static ulong decrypt(ulong session, void *in, ulong in_length, void *out, ulong *out_length) {
#ifdef FAULT_LOST_ONCE
    static int before;
    if (!before++) return 0xB3;
#elif defined(FAULT_LOST)
    return 0x32;
#elif defined(FAULT_BROKEN)
    return 0x30;
#elif defined(FAULT_HANGS)
    for (;;) pause();
#endif
    return ((ulong (*)(ulong, void *, ulong, void *, ulong *))real.at[DECRYPT])(session, in, in_length, out, out_length);
}
#endif

#ifdef FAULT_BROKEN
static ulong encrypt(ulong session, void *in, ulong in_length, void *out, ulong *out_length) {
    return 0x30;
}
#endif

#ifdef FAULT_OWN_IV
static ulong encrypt_init(ulong session, struct mechanism *mechanism, ulong key) {
    static unsigned char drawn = 1;
    if (mechanism->kind == 0x1087UL) memset(*mechanism->parameter, drawn++, 12);
    return ((ulong (*)(ulong, struct mechanism *, ulong))real.at[ENCRYPT_INIT])(session, mechanism, key);
}
#endif

ulong C_GetFunctionList(struct list **list) {
    void *module = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
    struct list *theirs;
    if (!module) return 5;
    ulong (*get)(struct list **) = (ulong (*)(struct list **))dlsym(module, "C_GetFunctionList");
    if (!get || get(&theirs)) return 5;
    real = ours = *theirs;
    ours.at[GET_FUNCTION_LIST] = (any)C_GetFunctionList;
    ours.at[LOGIN] = (any)login;
#ifdef FAULT_LAST_TRY
    ours.at[GET_TOKEN_INFO] = (any)token_info;
#endif
#if defined(FAULT_LOST_ONCE) || defined(FAULT_LOST) || defined(FAULT_BROKEN) || defined(FAULT_HANGS)
    ours.at[DECRYPT] = (any)decrypt;
#endif
#ifdef FAULT_BROKEN
    ours.at[ENCRYPT] = (any)encrypt;
#endif
#ifdef FAULT_OWN_IV
    ours.at[ENCRYPT_INIT] = (any)encrypt_init;
#endif
    *list = &ours;
    return 0;
}
