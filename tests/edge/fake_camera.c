/* A camera at /dev/video97, as Video4Linux shows one, for a program that is started with this in LD_PRELOAD.

   640 × 480 YUYV at 60 frames/s, a bright disc that moves. With FAKE_CAMERA_UNPLUG=N each connection ends after N
   frames as that of a camera whose cable is pulled, which is back a little later. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 640, HEIGHT = 480, SIZE = 2 * WIDTH * HEIGHT, MOST = 32, APART = 1 << 24, RATE = 60 };

static int camera = -1, frames, queue[MOST], queued;
static unsigned char *memory[MOST];
static double started, gone_until;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int fail(int error) {
  errno = error;
  return -1;
}

static int open_as(const char *name, const char *path, int flags, int mode) {
  int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
  if (strcmp(path, "/dev/video97")) return real(path, flags, mode);
  if (now() < gone_until) return fail(ENOENT);
  frames = queued = 0;
  return camera = real("/dev/null", O_RDWR);
}

#define OPEN(name)                                 \
  int name(const char *path, int flags, ...) {     \
    va_list rest;                                  \
    va_start(rest, flags);                         \
    int mode = va_arg(rest, int);                  \
    va_end(rest);                                  \
    return open_as(#name, path, flags, mode);      \
  }
OPEN(open)
OPEN(open64)

int close(int fd) {
  int (*real)(int) = dlsym(RTLD_NEXT, "close");
  if (fd >= 0 && fd == camera) camera = -1;
  return real(fd);
}

#define MMAP(name)                                                                                    \
  void *name(void *at, size_t length, int protection, int flags, int fd, off_t offset) {              \
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, #name);                    \
    if (fd < 0 || fd != camera) return real(at, length, protection, flags, fd, offset);               \
    return memory[offset / APART] =                                                                   \
               real(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);           \
  }
MMAP(mmap)
MMAP(mmap64)

static int take(struct v4l2_buffer *buffer) {
  const char *last = getenv("FAKE_CAMERA_UNPLUG");
  if (last && frames >= atoi(last)) {
    gone_until = now() + 0.2;
    return fail(ENODEV);
  }
  double wait = started + (frames + 1.0) / RATE - now();
  if (wait > 0) usleep(wait * 1e6);
  if (!queued) return fail(EAGAIN);
  int index = queue[0];
  memmove(queue, queue + 1, --queued * sizeof *queue);
  for (int y = 0; y < HEIGHT; y++)
    for (int x = 0; x < WIDTH; x++) {
      int dx = x - frames * 6 % WIDTH, dy = y - HEIGHT / 2;
      unsigned char *pixel = memory[index] + 2 * (y * WIDTH + x);
      pixel[0] = dx * dx + dy * dy < 2500 ? 235 : 60, pixel[1] = 128;
    }
  double at = now();
  buffer->index = index, buffer->bytesused = buffer->length = SIZE, buffer->flags = 0, buffer->sequence = frames++;
  buffer->timestamp.tv_sec = at, buffer->timestamp.tv_usec = (at - (long)at) * 1e6;
  return 0;
}

int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *value = va_arg(rest, void *);
  va_end(rest);
  int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
  if (fd < 0 || fd != camera) return real(fd, request, value);
  switch ((unsigned)request) {
    case VIDIOC_QUERYCAP: {
      struct v4l2_capability *can = value;
      memset(can, 0, sizeof *can);
      can->capabilities = can->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
      return 0;
    }
    case VIDIOC_G_INPUT:
      *(int *)value = 0;
      return 0;
    case VIDIOC_ENUMINPUT: {
      struct v4l2_input *input = value;
      input->type = V4L2_INPUT_TYPE_CAMERA, input->std = 0;
      return input->index ? fail(EINVAL) : 0;
    }
    case VIDIOC_ENUM_FMT: {
      struct v4l2_fmtdesc *format = value;
      format->pixelformat = V4L2_PIX_FMT_YUYV;
      return format->index ? fail(EINVAL) : 0;
    }
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT: {
      struct v4l2_pix_format *pixels = &((struct v4l2_format *)value)->fmt.pix;
      pixels->width = WIDTH, pixels->height = HEIGHT, pixels->pixelformat = V4L2_PIX_FMT_YUYV;
      pixels->field = V4L2_FIELD_NONE, pixels->bytesperline = 2 * WIDTH, pixels->sizeimage = SIZE;
      return 0;
    }
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: {
      struct v4l2_captureparm *capture = &((struct v4l2_streamparm *)value)->parm.capture;
      capture->timeperframe.numerator = 1, capture->timeperframe.denominator = RATE;
      return 0;
    }
    case VIDIOC_REQBUFS: {
      struct v4l2_requestbuffers *asked = value;
      if (asked->count > MOST) asked->count = MOST;
      return 0;
    }
    case VIDIOC_QUERYBUF: {
      struct v4l2_buffer *buffer = value;
      buffer->length = SIZE, buffer->m.offset = buffer->index * APART;
      return 0;
    }
    case VIDIOC_QBUF:
      queue[queued++] = ((struct v4l2_buffer *)value)->index;
      return 0;
    case VIDIOC_STREAMON:
      started = now();
      return 0;
    case VIDIOC_S_INPUT:
    case VIDIOC_STREAMOFF:
      return 0;
    case VIDIOC_DQBUF:
      return take(value);
    default:
      return fail(ENOTTY);
  }
}
