/* Operations that libfuse has and pyfuse3 does not install, and one that this libfuse does not know, for stock pyfuse3.
 *
 * Loaded with RTLD_GLOBAL before pyfuse3 is (extra.py), three functions here take the place of libfuse's when the linker
 * binds pyfuse3's calls:
 *
 *     fuse_session_new          completes the table of operations by lseek, fallocate and copy_file_range, puts a
 *                               handler of whole replies in the place of pyfuse3's readdirplus, and one each before
 *                               its read and fsync, which get what that one does not take
 *     fuse_session_receive_buf  reads large writes into a room that the handler has offered, or the largest into a bytes
 *                               object of Python's, which the handler keeps: libfuse would read them into its buffer,
 *                               and pyfuse3 copy them with the interpreter held.
 *                               pyfuse3's handler gets a write without bytes, and asks here for what came with it
 *     fuse_session_process_buf  gives a FUSE_TMPFILE to the handler of FUSE_CREATE: both have one layout, request and
 *                               reply (linux/fuse.h, protocol 7.37), and O_TMPFILE in the flags tells them apart;
 *                               keeps the inode of a FUSE_STATFS for its handler, which begins before the next request;
 *                               answers a FUSE_GETXATTR of security.capability itself: no inode has it, and the kernel
 *                               asks at the first write to each file and at each chown, whatever was negotiated
 *
 * They then call libfuse's own, found by a handle of its file: RTLD_NEXT does not look there from a library that was
 * loaded at run time.  The handlers are the caller's; each answers its request once, now or later, from any thread.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 314
#include <dlfcn.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define IN_OPCODE 4 /* fuse_in_header: length, opcode */
#define IN_HEADER 40
#define IN_UNIQUE 8
#define IN_NODE 16
#define IN_XATTR_NAME (IN_HEADER + 8) /* after fuse_getxattr_in: size, padding */
#define IN_WRITE_SIZE (IN_HEADER + 16) /* fuse_write_in: handle, offset, size, ... */
#define IN_WRITE (IN_HEADER + 40)
#define OPCODE_WRITE 16
#define OPCODE_STATFS 17
#define OPCODE_GETXATTR 22
#define OPCODE_CREATE 35
#define OPCODE_TMPFILE 51

#define LARGEST (1 << 20) /* what one write brings at most: 256 pages of 4 KiB, as libfuse asks for */
#define LARGE (1 << 17)   /* from here on a write is worth a room of its own */

/* Python's stable ABI, so that its headers need not be there. */
extern void *PyBytes_FromStringAndSize(const char *, ssize_t);
extern char *PyBytes_AsString(void *);
extern void PyErr_Clear(void);
extern void *PyEval_SaveThread(void);
extern void PyEval_RestoreThread(void *);

typedef void (*seek_handler)(fuse_req_t, unsigned long long fh, long long offset, int whence);
typedef void (*allocate_handler)(fuse_req_t, unsigned long long fh, int mode, long long offset, long long length);
typedef void (*copy_handler)(fuse_req_t, unsigned long long fh_in, long long offset_in, unsigned long long fh_out,
                             long long offset_out, size_t length, int flags);
typedef void (*list_handler)(fuse_req_t, unsigned long long fh, long long offset, size_t size);
typedef int (*read_handler)(fuse_req_t, unsigned long long fh, long long offset, size_t size);
typedef int (*sync_handler)(fuse_req_t, unsigned long long fh, int datasync);
typedef void (*given_sync_handler)(fuse_req_t, fuse_ino_t, int, struct fuse_file_info *);
typedef void (*given_handler)(fuse_req_t, fuse_ino_t, size_t, off_t, struct fuse_file_info *);

static seek_handler on_seek;
static allocate_handler on_allocate;
static copy_handler on_copy;
static list_handler on_list;
static read_handler on_read; /* whether it takes the request */
static sync_handler on_sync; /* the same */
static given_handler given_read;
static given_sync_handler given_sync;
static struct fuse_session *session;
static unsigned long long asked;
static void *vessel;  /* the bytes object that the next large write is read into */
static void *arrived; /* the one that came with the write that was taken in last */
static void *room;    /* LARGEST bytes that were offered */
static size_t in_room; /* so many of them came with the write that was taken in last */
static int flowing;    /* it was a large one: the next request likely is, too */

/* The handlers of sessions that are made from now on. */
void extra_install(seek_handler seek, allocate_handler allocate, copy_handler copy, list_handler list,
                   read_handler read, sync_handler sync)
{
    on_seek = seek;
    on_allocate = allocate;
    on_copy = copy;
    on_list = list;
    on_read = read;
    on_sync = sync;
    session = NULL;
}

/* Whether a session passed through here: 0 where pyfuse3 is bound to libfuse's own functions. */
int extra_in_place(void) { return session != NULL; }

/* The inode of the FUSE_STATFS that was taken in last: pyfuse3 gives its handler none. */
unsigned long long extra_asked(void) { return asked; }

/* The bytes that came with the write that was taken in last, once: the caller's own.  Otherwise empty ones. */
void *extra_arrived(void)
{
    void *taken = arrived;
    arrived = NULL;
    return taken != NULL ? taken : PyBytes_FromStringAndSize(NULL, 0);
}

/* Where the next large write may go: LARGEST bytes at a page boundary, or NULL.  Once one is there it is the caller's. */
void extra_offer(void *offered) { room = offered; }

/* How many bytes of the room came with the write that was taken in last, once; if any, the room is withdrawn. */
size_t extra_in_room(void)
{
    size_t taken = in_room;
    in_room = 0;
    if (taken)
        room = NULL;
    return taken;
}

/* Has the kernel write back what it holds of an inode from `offset` on; 0 or -errno.  Blocks while it writes, and not
 * even a signal ends that: guard.py does. */
int extra_write_back(unsigned long long inode, long long offset)
{
    return session == NULL ? -ENOTCONN : fuse_lowlevel_notify_inval_inode(session, inode, offset, 0);
}

static void seek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence, struct fuse_file_info *file)
{
    (void)inode;
    on_seek(request, file->fh, offset, whence);
}

static void allocate(fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
                     struct fuse_file_info *file)
{
    (void)inode;
    on_allocate(request, file->fh, mode, offset, length);
}

static void copy(fuse_req_t request, fuse_ino_t inode_in, off_t offset_in, struct fuse_file_info *in,
                 fuse_ino_t inode_out, off_t offset_out, struct fuse_file_info *out, size_t length, int flags)
{
    (void)inode_in;
    (void)inode_out;
    on_copy(request, in->fh, offset_in, out->fh, offset_out, length, flags);
}

static void list(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file)
{
    (void)inode;
    on_list(request, file->fh, offset, size);
}

static void read_(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file)
{
    if (!on_read(request, file->fh, offset, size))
        given_read(request, inode, size, offset, file);
}

static void sync_(fuse_req_t request, fuse_ino_t inode, int datasync, struct fuse_file_info *file)
{
    if (!on_sync(request, file->fh, datasync))
        given_sync(request, inode, datasync, file);
}

/* libfuse's own function of that name. */
static void *libfuse(const char *name)
{
    static void *library;
    if (library == NULL) {
        Dl_info found;
        if (dladdr((void *)fuse_reply_err, &found) == 0)
            return NULL;
        library = dlopen(found.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }
    return library == NULL ? NULL : dlsym(library, name);
}

struct fuse_session *fuse_session_new(struct fuse_args *arguments, const struct fuse_lowlevel_ops *given, size_t size,
                                      void *data)
{
    static struct fuse_lowlevel_ops operations; /* libfuse copies it */
    struct fuse_session *(*real)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *) =
        libfuse("fuse_session_new");
    if (real == NULL)
        return NULL;
    if (on_seek == NULL)
        return real(arguments, given, size, data);
    memset(&operations, 0, sizeof operations);
    memcpy(&operations, given, size < sizeof operations ? size : sizeof operations);
    operations.lseek = seek;
    operations.fallocate = allocate;
    operations.copy_file_range = copy;
    operations.readdirplus = list;
    given_read = operations.read;
    operations.read = read_;
    given_sync = operations.fsync;
    operations.fsync = sync_;
    session = real(arguments, &operations, sizeof operations, data);
    return session;
}

/* Whether a FUSE_GETXATTR asks for what no inode here has; then it is answered: ENODATA. */
static int has_no_capability(struct fuse_session *of, const struct fuse_buf *request)
{
    static const char name[] = "security.capability";
    struct {
        uint32_t length;
        int32_t error;
        uint64_t unique;
    } reply = {sizeof reply, -ENODATA, 0}; /* fuse_out_header */
    if (request->size != IN_XATTR_NAME + sizeof name ||
        memcmp((char *)request->mem + IN_XATTR_NAME, name, sizeof name) != 0)
        return 0;
    memcpy(&reply.unique, (char *)request->mem + IN_UNIQUE, sizeof reply.unique);
    return write(fuse_session_fd(of), &reply, sizeof reply) == sizeof reply;
}

/* One request: what comes before a write's bytes into `head`, the rest into `body`.  While large writes flow in, others
 * may have the interpreter meanwhile: the kernel copies a MiB, and who writes to devices waits for it. */
static ssize_t receive(int descriptor, void *head, void *body)
{
    struct iovec parts[] = {{head, IN_WRITE}, {body, LARGEST}};
    if (!flowing)
        return readv(descriptor, parts, 2);
    void *thread = PyEval_SaveThread();
    ssize_t count = readv(descriptor, parts, 2);
    int number = errno;
    PyEval_RestoreThread(thread);
    errno = number;
    return count;
}

/* pyfuse3 calls it with the interpreter held, and has it processed before it receives the next. */
int fuse_session_receive_buf(struct fuse_session *of, struct fuse_buf *request)
{
    static int (*real)(struct fuse_session *, struct fuse_buf *);
    static int small; /* the kernel wants more room than this */
    if (real == NULL)
        real = libfuse("fuse_session_receive_buf");
    if (of != session || request->mem == NULL || small) /* libfuse makes the buffer with the first request */
        return real(of, request);
    if (vessel == NULL) { /* what came and nobody asked for can be used again */
        vessel = arrived;
        arrived = NULL;
    }
    in_room = 0;
    if (room == NULL && vessel == NULL && (vessel = PyBytes_FromStringAndSize(NULL, LARGEST)) == NULL) {
        PyErr_Clear();
        return real(of, request);
    }
    char *body = room != NULL ? room : PyBytes_AsString(vessel);
    ssize_t count = receive(fuse_session_fd(of), request->mem, body);
    if (count < 0 && (errno == EINTR || errno == EAGAIN))
        return -errno;
    if (count < IN_HEADER) { /* an error, or the end: libfuse meets the same, and knows what it means */
        small = count < 0 && errno == EINVAL;
        return real(of, request);
    }
    unsigned int opcode;
    memcpy(&opcode, (char *)request->mem + IN_OPCODE, sizeof opcode);
    request->flags = 0;
    request->size = count;
    size_t bytes = count > IN_WRITE ? count - IN_WRITE : 0;
    flowing = opcode == OPCODE_WRITE && bytes >= LARGE;
    if (opcode == OPCODE_WRITE && (bytes == LARGEST || (flowing && room != NULL))) {
        uint32_t length = IN_WRITE, none = 0;
        memcpy(request->mem, &length, sizeof length);
        memcpy((char *)request->mem + IN_WRITE_SIZE, &none, sizeof none);
        request->size = IN_WRITE;
        if (room != NULL) {
            in_room = bytes;
        } else {
            arrived = vessel;
            vessel = NULL;
        }
    } else if (bytes) {
        memcpy((char *)request->mem + IN_WRITE, body, bytes);
    }
    return count;
}

void fuse_session_process_buf(struct fuse_session *of, const struct fuse_buf *request)
{
    static void (*real)(struct fuse_session *, const struct fuse_buf *);
    if (real == NULL)
        real = libfuse("fuse_session_process_buf");
    if (of == session && !(request->flags & FUSE_BUF_IS_FD) && request->size >= IN_HEADER) {
        unsigned int opcode;
        memcpy(&opcode, (char *)request->mem + IN_OPCODE, sizeof opcode);
        if (opcode == OPCODE_TMPFILE) {
            opcode = OPCODE_CREATE;
            memcpy((char *)request->mem + IN_OPCODE, &opcode, sizeof opcode);
        } else if (opcode == OPCODE_STATFS) {
            memcpy(&asked, (char *)request->mem + IN_NODE, sizeof asked);
        } else if (opcode == OPCODE_GETXATTR && has_no_capability(of, request)) {
            return;
        }
    }
    real(of, request);
}
