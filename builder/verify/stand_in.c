/* Stands in for one of Windows PE's own programs under Wine: wpeinit, wpeutil, drvload, manage-bde, diskpart.
 *
 * Appends its name and its arguments to X:\stand-ins\calls.log, prints X:\stand-ins\NAME.txt and ends with the number
 * in X:\stand-ins\NAME.rc (0 without such a file). Where X:\stand-ins\NAME.hang exists it never ends.
 *
 * As manage-bde it keeps volumes locked, where X:\stand-ins\bitlocker.txt has lines VOLUME|KEY|PLACE: PLACE is a file
 * (what a locked volume shows) or a folder (what is inside), the other of which is PLACE.locked or PLACE.open; -unlock
 * with KEY (a recovery password, or @PATH of a file that holds the same as the startup key's) and -lock exchange them.
 * Then X:\stand-ins\manage-bde.done.txt or manage-bde.refused.txt is printed, and the exit code is 0 or -1.
 *
 * With --stay it does none of that and never ends; with --hold PATH neither, and keeps that file open for itself alone,
 * once X:\stand-ins\held.log is there.
 */
#include <stdio.h>
#include <wchar.h>
#include <windows.h>

static FILE *open_beside(const wchar_t *name, const wchar_t *kind, const wchar_t *mode)
{
    wchar_t path[MAX_PATH];
    swprintf(path, MAX_PATH, L"X:\\stand-ins\\%ls%ls", name, kind);
    return _wfopen(path, mode);
}

static int hold(const wchar_t *path)
{
    if (CreateFileW(path, GENERIC_READ, 0, NULL, OPEN_EXISTING, 0, NULL) == INVALID_HANDLE_VALUE)
        return 1;
    fclose(open_beside(L"held", L".log", L"wb"));
    Sleep(INFINITE);
    return 0;
}

static void show(const wchar_t *name, const wchar_t *kind)
{
    FILE *file = open_beside(name, kind, L"rb");
    int character;

    if (file == NULL)
        return;
    while ((character = getc(file)) != EOF)
        putchar(character);
    fclose(file);
    fflush(stdout);
}

static int same_content(const wchar_t *one, const wchar_t *other)
{
    FILE *first = _wfopen(one, L"rb"), *second = _wfopen(other, L"rb");
    int same = first != NULL && second != NULL, character;

    while (same) {
        character = getc(first);
        same = character == getc(second);
        if (character == EOF)
            break;
    }
    if (first != NULL)
        fclose(first);
    if (second != NULL)
        fclose(second);
    return same;
}

static int exchange(const wchar_t *place, const wchar_t *away, const wchar_t *here)
{
    wchar_t old[MAX_PATH], new[MAX_PATH];

    swprintf(old, MAX_PATH, L"%ls%ls", place, away);
    swprintf(new, MAX_PATH, L"%ls%ls", place, here);
    return MoveFileW(place, old) && MoveFileW(new, place) ? 0 : -1;
}

/* -unlock VOLUME -RecoveryPassword|-RecoveryKey KEY, or -lock VOLUME [-ForceDismount] */
static int bitlocker(FILE *volumes, int count, wchar_t **arguments)
{
    wchar_t line[1024], *volume, *key, *place;
    int is_folder, opens;

    while (count > 2 && fgetws(line, 1024, volumes) != NULL) {
        volume = wcstok(line, L"|");
        key = wcstok(NULL, L"|");
        place = wcstok(NULL, L"|\r\n");
        if (place == NULL || wcscmp(volume, arguments[2]))
            continue;
        is_folder = (GetFileAttributesW(place) & FILE_ATTRIBUTE_DIRECTORY) != 0;
        if (!wcscmp(arguments[1], L"-lock") && is_folder)
            return exchange(place, L".open", L".locked");
        if (wcscmp(arguments[1], L"-unlock") || is_folder || count != 5)
            continue;
        if (!wcscmp(arguments[3], L"-RecoveryPassword"))
            opens = !wcscmp(arguments[4], key);
        else
            opens = !wcscmp(arguments[3], L"-RecoveryKey") && *key == L'@' && same_content(arguments[4], key + 1);
        if (opens)
            return exchange(place, L".locked", L".open");
    }
    return -1;
}

int wmain(int count, wchar_t **arguments)
{
    wchar_t self[MAX_PATH], *name, *dot;
    FILE *file;
    int code = 0, index;

    if (count == 3 && !wcscmp(arguments[1], L"--hold"))
        return hold(arguments[2]);
    if (count == 2 && !wcscmp(arguments[1], L"--stay"))
        Sleep(INFINITE);
    GetModuleFileNameW(NULL, self, MAX_PATH);
    name = wcsrchr(self, L'\\');
    name = name ? name + 1 : self;
    if ((dot = wcsrchr(name, L'.')) != NULL)
        *dot = 0;
    if ((file = open_beside(L"calls", L".log", L"ab")) != NULL) {
        fprintf(file, "%ls", name);
        for (index = 1; index < count; index++)
            fprintf(file, " %ls", arguments[index]);
        fputs("\n", file);
        fclose(file);
    }
    if (!wcscmp(name, L"manage-bde") && (file = open_beside(L"bitlocker", L".txt", L"r")) != NULL) {
        code = bitlocker(file, count, arguments);
        fclose(file);
        show(name, code ? L".refused.txt" : L".done.txt");
        return code;
    }
    show(name, L".txt");
    if ((file = open_beside(name, L".hang", L"rb")) != NULL)
        Sleep(INFINITE);
    if ((file = open_beside(name, L".rc", L"r")) != NULL) {
        if (fscanf(file, "%d", &code) != 1)
            code = 0;
        fclose(file);
    }
    return code;
}
