/* Stands in for one of Windows PE's own programs under Wine: wpeinit, wpeutil, drvload, manage-bde, diskpart.
 *
 * Appends its name and its arguments to X:\stand-ins\calls.log, prints X:\stand-ins\NAME.txt and ends with the number
 * in X:\stand-ins\NAME.rc (0 without such a file). Where X:\stand-ins\NAME.hang exists it never ends. A file whose path
 * stands in X:\stand-ins\NAME.hold (UTF-8) is in use from then on: another process keeps it open for itself alone.
 * With --stay it does none of that and never ends.
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

static void start_holding(const wchar_t *self, FILE *file)
{
    char utf8[4 * MAX_PATH] = "";
    wchar_t path[MAX_PATH], command[3 * MAX_PATH];
    STARTUPINFOW startup = { sizeof startup };
    PROCESS_INFORMATION process;
    FILE *held = NULL;
    int tries;

    fread(utf8, 1, sizeof utf8 - 1, file);
    MultiByteToWideChar(CP_UTF8, 0, utf8, -1, path, MAX_PATH);
    swprintf(command, 3 * MAX_PATH, L"\"%ls\" --hold \"%ls\"", self, path);
    CreateProcessW(self, command, NULL, NULL, FALSE, DETACHED_PROCESS, NULL, NULL, &startup, &process);
    for (tries = 0; tries < 100 && (held = open_beside(L"held", L".log", L"rb")) == NULL; tries++)
        Sleep(50);
    if (held)
        fclose(held);
}

int wmain(int count, wchar_t **arguments)
{
    wchar_t program[MAX_PATH], self[MAX_PATH], *name, *dot;
    FILE *file;
    int code = 0, character, index;

    if (count == 3 && !wcscmp(arguments[1], L"--hold"))
        return hold(arguments[2]);
    if (count == 2 && !wcscmp(arguments[1], L"--stay"))
        Sleep(INFINITE);
    GetModuleFileNameW(NULL, self, MAX_PATH);
    wcscpy(program, self);
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
    if ((file = open_beside(name, L".hold", L"rb")) != NULL) {
        start_holding(program, file);
        fclose(file);
    }
    if ((file = open_beside(name, L".txt", L"rb")) != NULL) {
        while ((character = getc(file)) != EOF)
            putchar(character);
        fclose(file);
        fflush(stdout);
    }
    if ((file = open_beside(name, L".hang", L"rb")) != NULL)
        Sleep(INFINITE);
    if ((file = open_beside(name, L".rc", L"r")) != NULL) {
        if (fscanf(file, "%d", &code) != 1)
            code = 0;
        fclose(file);
    }
    return code;
}
