/* Stands in for Windows's boot manager in efisys.bin: a UEFI program that proves that the medium can be read.
 *
 * It looks for \sources\boot.wim through every file system that the firmware mounted (the ISO's UDF among them), prints
 * its size and sha256 with the nonce it was built with to the console and to COM1, and powers the machine off.
 *
 * UEFI Specification 2.10: 4.3 (system table), 7 (boot services), 8.5 (ResetSystem), 13.4 and 13.5 (file systems).
 * Only what is called is declared; what lies between is counted. FIPS 180-4 for SHA-256.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u64 status;

#ifndef NONCE
#error NONCE must be given
#endif

#define ERROR_BIT (1ULL << 63)
#define FILE_READ 1
#define BY_PROTOCOL 2
#define RESET_SHUTDOWN 2
#define COM1 0x3f8

typedef struct { u32 a; u16 b, c; u8 d[8]; } guid;

typedef struct text_output {
    status (*reset)(struct text_output *, u8);
    status (*output_string)(struct text_output *, const u16 *);
} text_output;

typedef struct {
    u8 header[24];
    void *tpl[2];
    void *pages_and_pool[5];
    void *events[6];
    void *install_protocol[3];
    status (*handle_protocol)(void *handle, const guid *protocol, void **interface);
    void *reserved;
    void *register_protocol_notify;
    status (*locate_handle)(int search, const guid *protocol, void *key, u64 *size, void **handles);
    void *locate_device_path;
    void *install_configuration_table;
    void *image[5];
    void *get_next_monotonic_count;
    void *stall;
    status (*set_watchdog_timer)(u64 seconds, u64 code, u64 size, u16 *data);
    status (*connect_controller)(void *handle, void **drivers, void *path, u8 recursive);
} boot_services;

typedef struct {
    u8 header[24];
    void *time[4];
    void *virtual_memory[2];
    void *variables[3];
    void *get_next_high_monotonic_count;
    void (*reset_system)(int type, status code, u64 size, void *data);
} runtime_services;

typedef struct {
    u8 header[24];
    u16 *vendor;
    u32 revision;
    void *console_in_handle, *console_in, *console_out_handle;
    text_output *console_out;
    void *error_handle, *error;
    runtime_services *runtime;
    boot_services *boot;
} system_table;

typedef struct file {
    u64 revision;
    status (*open)(struct file *, struct file **, const u16 *name, u64 mode, u64 attributes);
    status (*close)(struct file *);
    void *delete;
    status (*read)(struct file *, u64 *size, void *buffer);
} file;

typedef struct file_system {
    u64 revision;
    status (*open_volume)(struct file_system *, file **);
} file_system;

static const guid FILE_SYSTEM = {0x964e5b22, 0x6459, 0x11d2, {0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b}};
static const u16 BOOT_WIM[] = u"\\sources\\boot.wim";

static char line[512];
static u16 wide_line[512];
static u32 line_length;
static void *handles[256];
static u8 buffer[1 << 20];

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static inline u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void put(char character)
{
    if (line_length < sizeof line - 1)
        line[line_length++] = character;
}

/* The line whole, first to the console and then to COM1: firmware may show its console there, too. */
static void show(text_output *console)
{
    u32 at, patience;
    for (at = 0; at < line_length; at++)
        wide_line[at] = (u8)line[at];
    wide_line[at] = 0;
    console->output_string(console, wide_line);
    for (at = 0; at < line_length; at++) {
        for (patience = 1 << 20; !(in8(COM1 + 5) & 0x20) && patience; patience--)
            ;
        out8(COM1, (u8)line[at]);
    }
}

static void print(const char *text)
{
    while (*text)
        put(*text++);
}

static void print_number(u64 number)
{
    char digits[21];
    int at = 20;
    digits[20] = 0;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    print(digits + at);
}

/* FIPS 180-4, 4.1.2, 4.2.2, 5.3.3, 6.2.2. */
static const u32 K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static u32 H[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static inline u32 rotate(u32 x, int n) { return x >> n | x << (32 - n); }

static void hash_block(const u8 *block)
{
    u32 w[64], s[8];
    int t;
    for (t = 0; t < 16; t++)
        w[t] = (u32)block[4 * t] << 24 | (u32)block[4 * t + 1] << 16 | (u32)block[4 * t + 2] << 8 | block[4 * t + 3];
    for (; t < 64; t++) {
        u32 a = w[t - 15], b = w[t - 2];
        w[t] = (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10) + w[t - 7] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[t - 16];
    }
    for (t = 0; t < 8; t++)
        s[t] = H[t];
    for (t = 0; t < 64; t++) {
        u32 one = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[t] + w[t];
        u32 two = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + one, s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = one + two;
    }
    for (t = 0; t < 8; t++)
        H[t] += s[t];
}

/* The last, partial block of `total` bytes: padding and the length in bits. */
static void hash_end(const u8 *rest, u64 total)
{
    static u8 last[128];
    u64 length = total % 64, size = length < 56 ? 64 : 128, at;
    for (at = 0; at < size; at++)
        last[at] = at < length ? rest[at] : at == length ? 0x80 : 0;
    for (at = 0; at < 8; at++)
        last[size - 1 - at] = (u8)(total * 8 >> 8 * at);
    for (at = 0; at < size; at += 64)
        hash_block(last + at);
}

/* Read the whole file; 0 where a read failed. */
static int hash_file(file *wim, u64 *total)
{
    u64 kept = 0;
    *total = 0;
    for (;;) {
        u64 size = sizeof buffer - kept, at;
        if (wim->read(wim, &size, buffer + kept) & ERROR_BIT)
            return 0;
        if (!size)
            break;
        *total += size;
        size += kept;
        for (at = 0; at + 64 <= size; at += 64)
            hash_block(buffer + at);
        for (kept = 0; at < size; at++)
            buffer[kept++] = buffer[at];
    }
    hash_end(buffer, *total);
    return 1;
}

static void report(u64 total)
{
    static const char hex[] = "0123456789abcdef";
    int t, shift;
    print("boot.wim ");
    print_number(total);
    print(" sha256 ");
    for (t = 0; t < 8; t++)
        for (shift = 28; shift >= 0; shift -= 4)
            put(hex[H[t] >> shift & 15]);
}

static file *find_boot_wim(boot_services *boot)
{
    u64 size = sizeof handles, count, at;
    if (boot->locate_handle(BY_PROTOCOL, &FILE_SYSTEM, 0, &size, handles) & ERROR_BIT)
        return 0;
    count = size / sizeof handles[0];
    for (at = 0; at < count; at++) {
        file_system *volume;
        file *root, *wim;
        if (boot->handle_protocol(handles[at], &FILE_SYSTEM, (void **)&volume) & ERROR_BIT)
            continue;
        if (volume->open_volume(volume, &root) & ERROR_BIT)
            continue;
        if (!(root->open(root, &wim, BOOT_WIM, FILE_READ, 0) & ERROR_BIT))
            return wim;
        root->close(root);
    }
    return 0;
}

/* Have the firmware connect its drivers to every device: it mounts what it boots from, and not always more. */
static void connect_all(boot_services *boot)
{
    u64 size = sizeof handles, at;
    if (boot->locate_handle(0, 0, 0, &size, handles) & ERROR_BIT)
        return;
    for (at = 0; at < size / sizeof handles[0]; at++)
        boot->connect_controller(handles[at], 0, 0, 1);
}

status efi_main(void *image, system_table *system)
{
    boot_services *boot = system->boot;
    file *wim;
    u64 total;
    (void)image;
    boot->set_watchdog_timer(0, 0, 0, 0);
    print("\r\nBLUELIFT-STANDIN uefi " NONCE " ");
    wim = find_boot_wim(boot);
    if (!wim) {
        connect_all(boot);
        wim = find_boot_wim(boot);
    }
    if (!wim)
        print("no \\sources\\boot.wim");
    else if (!hash_file(wim, &total))
        print("boot.wim cannot be read");
    else
        report(total);
    print(" end\r\n");
    show(system->console_out);
    system->runtime->reset_system(RESET_SHUTDOWN, 0, 0, 0);
    return 0;
}
